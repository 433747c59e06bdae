//! `key list` and `key delete`. Making keys is in [`crate::generate`].

use hsm_client::{Cluster, Login, With};
use hsm_protocol::limits::FIND_PAGE;
use hsm_protocol::wire::{reply, request};
use hsm_protocol::{AttributeKind, ErrorCode, ObjectClass, Template, convert, wire};
use serde_json::{Value, json};

use crate::answer::{Answer, table};
use crate::attributes;
use crate::command_line::KeyCommand;
use crate::credentials::Session;
use crate::failure::Failure;
use crate::filter::{Filter, parse_reference};
use crate::generate;
use crate::unreached::Unreached;

/// Runs a command.
pub(crate) fn run(session: &Session<'_>, command: &KeyCommand) -> Result<Answer, Failure> {
    match command {
        KeyCommand::List { filter, max_items, starting_token, verbose } => {
            let filter = Filter::parse(filter)?;
            let after = starting_token.as_deref().map_or(Ok(0), parse_reference)?;
            let listing = session.logged_in(|login| list(session.cluster(), login, &filter, after, *max_items))?;
            Ok(listing.answer(*verbose))
        }
        KeyCommand::Delete { filter, all } => {
            let filter = Filter::parse(filter)?;
            session.logged_in(|login| delete(session.cluster(), login, &filter, *all))
        }
        KeyCommand::GenerateSymmetric(command) => generate::symmetric(session, command),
        KeyCommand::GenerateAsymmetricPair(command) => generate::pair(session, command),
    }
}

/// A key with what may be read of it.
pub(crate) struct Key {
    reference: u64,
    attributes: Template,
}

impl Key {
    /// The key behind a reference.
    pub(crate) fn read(cluster: &Cluster, login: &Login, reference: u64) -> Result<Self, Failure> {
        let body = move |_: With| {
            let object = wire::ObjectReference { token_object: reference, ..Default::default() };
            request::Body::GetAttributes(wire::GetAttributes { object: Some(object), kinds: attributes::shown() })
        };
        let reply::Body::Attributes(reply) = cluster.call(Some(login), &body)? else {
            return Err(Failure::strange_answer());
        };
        let present = reply.items.into_iter().filter_map(|item| item.attribute.filter(|_| item.status == 0));
        let items = wire::Attributes { items: present.collect() };
        let attributes = convert::template(items).map_err(|_| Failure::strange_answer())?;
        Ok(Self { reference, attributes })
    }

    /// As JSON: the reference and the label, or everything.
    pub(crate) fn json(&self, verbose: bool) -> Value {
        let reference = format!("{:#018x}", self.reference);
        if verbose {
            json!({ "key-reference": reference, "attributes": attributes::show(&self.attributes) })
        } else {
            json!({ "key-reference": reference, "attributes": { "label": self.text("label") } })
        }
    }

    fn text(&self, name: &str) -> String {
        match attributes::show(&self.attributes).get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    fn row(&self) -> Vec<String> {
        let reference = format!("{:#x}", self.reference);
        std::iter::once(reference).chain(["label", "class", "key-type", "id"].map(|name| self.text(name))).collect()
    }

    /// Every attribute in a line of its own.
    pub(crate) fn words(&self) -> String {
        let rows = attributes::show(&self.attributes).into_iter().map(|(name, value)| match value {
            Value::String(text) => vec![name, text],
            other => vec![name, other.to_string()],
        });
        table(&["key-reference", &format!("{:#x}", self.reference)], rows)
    }
}

struct Listing {
    keys: Vec<Key>,
    total: usize,
    next: Option<u64>,
}

impl Listing {
    fn answer(&self, verbose: bool) -> Answer {
        let keys: Vec<Value> = self.keys.iter().map(|key| key.json(verbose)).collect();
        let mut data = json!({
            "matched_keys": keys, "total_key_count": self.total, "returned_key_count": self.keys.len(),
        });
        let mut text = if verbose {
            self.keys.iter().map(Key::words).collect::<Vec<_>>().join("\n\n")
        } else {
            table(&["key", "label", "class", "type", "id"], self.keys.iter().map(Key::row))
        };
        text.push_str(&format!("\n{} of {} keys", self.keys.len(), self.total));
        if let Some(next) = self.next {
            data["next_token"] = json!(format!("{next:#018x}"));
            text.push_str(&format!("; all: --max-items {}; the next: --starting-token {next:#x}", self.total));
        }
        Answer::new(data, text)
    }
}

fn list(cluster: &Cluster, login: &Login, filter: &Filter, after: u64, limit: usize) -> Result<Listing, Failure> {
    let references = matches(cluster, login, filter)?;
    let total = references.len();
    let mut rest = references.into_iter().filter(|&reference| reference > after);
    let mut keys = Vec::new();
    for reference in rest.by_ref().take(limit) {
        keys.push(Key::read(cluster, login, reference)?);
    }
    let next = keys.last().map(|key| key.reference).filter(|_| rest.next().is_some());
    Ok(Listing { keys, total, next })
}

fn matches(cluster: &Cluster, login: &Login, filter: &Filter) -> Result<Vec<u64>, Failure> {
    match filter {
        Filter::Reference(reference) => Ok(vec![*reference]),
        Filter::Attributes(template) => find_keys(cluster, login, template),
    }
}

fn delete(cluster: &Cluster, login: &Login, filter: &Filter, all: bool) -> Result<Answer, Failure> {
    let references = matches(cluster, login, filter)?;
    require_meant(&references, all)?;
    let (mut deleted, mut of_others, mut unreached) = (0, 0, Unreached::default());
    for &reference in &references {
        let body = move |_: With| {
            let object = wire::ObjectReference { token_object: reference, ..Default::default() };
            request::Body::DestroyObject(wire::DestroyObject { object: Some(object) })
        };
        match cluster.change(Some(login), &body) {
            Ok(reply::Body::Done(done)) => {
                deleted += 1;
                unreached.learn(done.unreached);
            }
            Ok(_) => return Err(Failure::strange_answer()),
            // A filter also finds the public keys of other users.
            Err(error) if all && error.code() == Some(ErrorCode::OwnerRefused) => of_others += 1,
            Err(error) => return Err(after_some(error.into(), deleted, references.len())),
        }
    }
    let message = deleted_words(deleted, of_others);
    Ok(unreached.added_to(Answer::new(json!({ "message": message }), message)))
}

/// A failure in the midst of several keys.
fn after_some(failure: Failure, deleted: usize, all: usize) -> Failure {
    if deleted == 0 {
        return failure;
    }
    let next = format!("{}; {deleted} of {all} keys are deleted", failure.next());
    failure.with_next(next)
}

fn deleted_words(deleted: usize, of_others: usize) -> String {
    let done = if deleted == 1 {
        "Key deleted successfully".to_owned()
    } else {
        format!("{deleted} keys deleted successfully")
    };
    match of_others {
        0 => done,
        _ => format!("{done}; {of_others} that belong to other users stayed"),
    }
}

/// Destruction cannot be taken back: what fits must be one key, or all must be meant.
fn require_meant(references: &[u64], all: bool) -> Result<(), Failure> {
    match references {
        [] => Err(Failure::misuse("no key fits the filter", "see `kagimori key list` with the same filter")),
        [_] => Ok(()),
        _ if all => Ok(()),
        several => {
            let shown: Vec<String> = several.iter().take(4).map(|reference| format!("{reference:#x}")).collect();
            let more = if several.len() > shown.len() { ", …" } else { "" };
            Err(Failure::misuse(
                format!("{} keys fit the filter: {}{more}", several.len(), shown.join(", ")),
                "name one by key-reference=0x…, or delete all of them with --all",
            ))
        }
    }
}

/// References of every key that fits, in their order. A token also holds certificates and data, so the classes are
/// asked for one by one unless the filter names one.
fn find_keys(cluster: &Cluster, login: &Login, template: &Template) -> Result<Vec<u64>, Failure> {
    let classes = [ObjectClass::SecretKey, ObjectClass::PublicKey, ObjectClass::PrivateKey].map(|class| class as u64);
    let named = template.number(AttributeKind::Class);
    let mut found = Vec::new();
    for class in classes.into_iter().filter(|&class| named.is_none_or(|named| named == class)) {
        find(cluster, login, &template.clone().with_number(AttributeKind::Class, class), &mut found)?;
    }
    found.sort_unstable();
    Ok(found)
}

fn find(cluster: &Cluster, login: &Login, template: &Template, found: &mut Vec<u64>) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let body = |_: With| {
            let template = Some(convert::template_message(template));
            request::Body::FindObjects(wire::FindObjects { template, after, limit: FIND_PAGE })
        };
        let reply::Body::FindObjects(reply) = cluster.call(Some(login), &body)? else {
            return Err(Failure::strange_answer());
        };
        found.extend_from_slice(&reply.objects);
        match reply.objects.last() {
            Some(&last) if reply.more && last > after => after = last,
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_deleted_together_only_when_all_are_meant() {
        assert!(require_meant(&[7], false).is_ok());
        assert!(require_meant(&[7, 8], true).is_ok());
        let refused = require_meant(&[0x2f, 0x30], false).unwrap_err();
        assert!(refused.cause().contains("2 keys fit the filter: 0x2f, 0x30") && refused.next().contains("--all"));
        assert!(require_meant(&[], true).is_err());
    }

    #[test]
    fn the_keys_of_others_are_not_said_to_be_deleted() {
        assert_eq!(deleted_words(1, 0), "Key deleted successfully");
        assert_eq!(deleted_words(2, 1), "2 keys deleted successfully; 1 that belong to other users stayed");
        let failure = after_some(Failure::strange_answer(), 3, 5);
        assert!(failure.next().ends_with("3 of 5 keys are deleted"), "{failure:?}");
    }

    #[test]
    fn a_list_that_is_cut_says_how_to_see_the_rest() {
        let keys = vec![Key { reference: 9, attributes: Template::new() }];
        let listing = Listing { keys, total: 40, next: Some(9) };
        let text = listing.answer(false).text().to_owned();
        assert!(text.contains("1 of 40 keys; all: --max-items 40; the next: --starting-token 0x9"), "{text}");
    }
}
