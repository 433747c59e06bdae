//! What is said of HSMs that may go on as before, after a change that no HSM may act against.

use hsm_protocol::wire;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::answer::Answer;
use crate::cluster::hexadecimal;

/// Those that a change has not reached, each once, with the latest time that was said of it.
#[derive(Default)]
pub(crate) struct Unreached(Vec<wire::Unreached>);

impl Unreached {
    /// Takes in what the answer to one change says.
    pub(crate) fn learn(&mut self, more: Vec<wire::Unreached>) {
        for one in more {
            match self.0.iter_mut().find(|known| known.hsm == one.hsm) {
                Some(known) => known.until = known.until.max(one.until),
                None => self.0.push(one),
            }
        }
    }

    /// The answer with it: as `unreached` in the data, which stay what they are when there is nobody to name.
    pub(crate) fn added_to(self, answer: Answer) -> Answer {
        if self.0.is_empty() {
            return answer;
        }
        let named = self.0.iter().map(|one| json!({ "hsm-id": hexadecimal(&one.hsm), "until": moment(one.until) }));
        let data = Value::Array(named.collect());
        let text: Vec<String> = self.0.iter().map(words).collect();
        answer.with("unreached", data, &text.join("\n"))
    }
}

impl From<Vec<wire::Unreached>> for Unreached {
    fn from(named: Vec<wire::Unreached>) -> Self {
        let mut all = Self::default();
        all.learn(named);
        all
    }
}

fn words(one: &wire::Unreached) -> String {
    format!(
        "HSM {} does not answer and may go on as before until {}; switch it off if you cannot wait for that",
        hexadecimal(&one.hsm),
        moment(one.until)
    )
}

/// Milliseconds since 1970-01-01 UTC, as RFC 3339 writes a second.
fn moment(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds.div_ceil(1_000)).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{seconds} s after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(hsm: u8, until: u64) -> wire::Unreached {
        wire::Unreached { hsm: vec![hsm; 16], until }
    }

    #[test]
    fn an_hsm_is_named_once_with_the_latest_time() {
        let mut all = Unreached::from(vec![one(1, 2_000), one(2, 1_000)]);
        all.learn(vec![one(1, 1_764_547_200_001), one(2, 500)]);
        let answer = all.added_to(Answer::new(json!({ "hsm-id": "x" }), "done"));
        let lines: Vec<_> = answer.text().lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "done"), "{lines:?}");
        assert!(lines[1].contains(&"01".repeat(16)) && lines[1].contains("2025-12-01T00:00:01Z"), "{}", lines[1]);
        assert!(lines[2].contains("1970-01-01T00:00:01Z"), "{}", lines[2]);
    }

    #[test]
    fn an_answer_with_nobody_to_name_stays_as_it_is() {
        assert_eq!(Unreached::default().added_to(Answer::sentence("done")).text(), "done");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_told_all_the_same() {
        assert!(moment(u64::MAX).ends_with("after 1970"));
    }
}
