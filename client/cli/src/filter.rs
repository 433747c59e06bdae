//! The filter syntax of cloudhsm-cli: `key-reference=0x…`, or `attr.NAME=VALUE` pairs that must all fit.

use hsm_protocol::Template;

use crate::attributes;
use crate::failure::Failure;

/// What keys to show.
pub(crate) enum Filter {
    /// One key by its reference.
    Reference(u64),
    /// Every key whose attributes fit.
    Attributes(Template),
}

impl Filter {
    /// Reads a filter from its arguments, each of which may hold several pairs.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let pairs: Vec<&str> = arguments.iter().flat_map(|argument| argument.split_whitespace()).collect();
        if let [only] = pairs.as_slice()
            && let Some(text) = only.strip_prefix("key-reference=")
        {
            return parse_reference(text).map(Self::Reference);
        }
        let mut template = Template::new();
        for pair in pairs {
            let found = pair.strip_prefix("attr.").and_then(|rest| rest.split_once('='));
            let Some((kind, value)) = found.and_then(|(name, value)| Some((attributes::by_name(name)?, value))) else {
                return Err(Failure::misuse(
                    format!("{pair:?} is no filter"),
                    "use key-reference=0x… alone, or attr.NAME=VALUE with a name that `key list -v` shows",
                ));
            };
            template.insert(kind, attributes::parse(kind, value)?);
        }
        Ok(Self::Attributes(template))
    }
}

/// A key's reference: hexadecimal after `0x`.
pub(crate) fn parse_reference(text: &str) -> Result<u64, Failure> {
    let parsed = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    parsed.ok_or_else(|| {
        Failure::misuse(format!("{text:?} is no key reference"), "write it as 0x and hexadecimal digits")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_protocol::AttributeKind;

    fn parse(arguments: &[&str]) -> Result<Filter, Failure> {
        Filter::parse(&arguments.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn pairs_in_one_argument_or_in_several_mean_the_same() {
        for arguments in [&["attr.label=web attr.sign=true"][..], &["attr.label=web", "attr.sign=true"]] {
            let Ok(Filter::Attributes(template)) = parse(arguments) else { panic!("{arguments:?}") };
            assert_eq!(template.octets(AttributeKind::Label), Some(&b"web"[..]));
            assert_eq!(template.flag(AttributeKind::Sign), Some(true));
        }
    }

    #[test]
    fn a_reference_stands_alone() {
        assert!(matches!(parse(&["key-reference=0x1f"]), Ok(Filter::Reference(0x1f))));
        for bad in
            [&["key-reference=31"][..], &["key-reference=0x1f", "attr.sign=true"], &["label=web"], &["attr.no=1"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
