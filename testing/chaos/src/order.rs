//! Whether the history of a register is linearizable: some order of its calls explains every answer and contradicts no
//! clock. Says so in time that grows with the square of the values, however many calls were never answered.
//!
//! To search for an order takes time that grows with every call that may have been done at any time, and a history of a bad
//! day has many of these. But here every write has a value of its own, so that each answer names its write, and then two rules
//! are enough (Gibbons and Korach, "Testing shared memories", SIAM Journal on Computing 26(4), 1997): no read ends before its
//! write begins; and of any two values, all calls of one can be put before all calls of the other. Tests compare it with a
//! judge that searches, the tester of the crate `stateright`.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a register has before anybody wrote.
pub(crate) const FIRST: u64 = 0;

/// A call on a register and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// When it was asked, on a clock that all calls share.
    pub(crate) asked: Duration,
    /// When it was answered; without that it may be done at any time after it was asked, or never.
    pub(crate) told: Option<Duration>,
    pub(crate) call: Call,
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// No other write of the history has this value, and it is not [`FIRST`].
    Write(u64),
    /// `None` when no value was answered: it says nothing then.
    Read(Option<u64>),
}

/// Nanoseconds; 0 is before the first call.
type Moment = u128;

fn moment(time: Duration) -> Moment {
    time.as_nanos() + 1
}

/// All calls with one value.
struct Value {
    /// When its write was asked; `None` when nobody asked for it.
    written: Option<Moment>,
    /// The first answer to any of its calls; `None` when none was answered.
    first_told: Option<Moment>,
    /// The first answer to a read.
    first_read: Option<Moment>,
    /// When the last of its calls was asked.
    last_asked: Moment,
}

/// Whether some order of the calls explains every answer and contradicts no clock. What is asked and what is answered at the
/// same moment count as at one time.
pub(crate) fn is_linearizable(spans: &[Span]) -> bool {
    let values = values(spans);
    let is_read_in_time = |value: &Value| match (value.written, value.first_read) {
        (_, None) => true,
        (Some(written), Some(read)) => read >= written,
        (None, Some(_)) => false,
    };
    // A call of the one ended before a call of the other began.
    let precedes = |one: &Value, other: &Value| one.first_told.is_some_and(|told| told < other.last_asked);
    let values: Vec<&Value> = values.values().collect();
    let pairs =
        values.iter().enumerate().flat_map(|(place, one)| values[..place].iter().map(move |other| (one, other)));
    values.iter().all(|value| is_read_in_time(value))
        && pairs.into_iter().all(|(one, other)| !(precedes(one, other) && precedes(other, one)))
}

fn values(spans: &[Span]) -> BTreeMap<u64, Value> {
    let first = Value { written: Some(0), first_told: Some(0), first_read: None, last_asked: 0 };
    let mut values = BTreeMap::from([(FIRST, first)]);
    let earliest = |one: Option<Moment>, other: Option<Moment>| one.into_iter().chain(other).min();
    for span in spans {
        let (Call::Write(number) | Call::Read(Some(number))) = span.call else { continue };
        let new = || Value { written: None, first_told: None, first_read: None, last_asked: 0 };
        let value = values.entry(number).or_insert_with(new);
        let (asked, told) = (moment(span.asked), span.told.map(moment));
        match span.call {
            Call::Write(_) => value.written = Some(asked),
            Call::Read(_) => value.first_read = earliest(value.first_read, told),
        }
        value.first_told = earliest(value.first_told, told);
        value.last_asked = value.last_asked.max(asked);
    }
    values
}

#[cfg(test)]
mod tests {
    use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
    use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester};

    use super::*;

    fn span(asked: u64, told: Option<u64>, call: Call) -> Span {
        Span { asked: Duration::from_millis(asked), told: told.map(Duration::from_millis), call }
    }

    fn write(asked: u64, told: Option<u64>, value: u64) -> Span {
        span(asked, told, Call::Write(value))
    }

    fn read(asked: u64, told: u64, value: u64) -> Span {
        span(asked, Some(told), Call::Read(Some(value)))
    }

    #[test]
    fn a_read_that_goes_back_in_time_is_found() {
        assert!(is_linearizable(&[write(0, Some(1), 7), read(2, 3, 7)]));
        assert!(!is_linearizable(&[write(0, Some(1), 7), read(2, 3, 0)]));
        assert!(!is_linearizable(&[write(0, Some(9), 7), read(2, 3, 7), read(4, 5, 0)]));
        assert!(!is_linearizable(&[read(0, 1, 7), write(2, Some(3), 7)]), "read before it was written");
        assert!(!is_linearizable(&[read(0, 1, 7)]), "never written");
    }

    #[test]
    fn a_write_without_an_answer_may_be_seen_late_or_never() {
        assert!(is_linearizable(&[write(0, None, 7), read(1, 2, 0), read(3, 4, 7)]));
        assert!(is_linearizable(&[write(0, None, 7), read(1, 2, 0)]));
        assert!(!is_linearizable(&[write(0, None, 7), read(1, 2, 7), read(3, 4, 0)]));
    }

    #[test]
    fn a_history_in_which_nothing_was_answered_is_judged_at_once() {
        let lost = (1..=2000).map(|value| write(value, None, value));
        let read = (1..=2000).map(|value| read(3000 + value, 3001 + value, value));
        assert!(is_linearizable(&lost.chain(read).collect::<Vec<_>>()));
    }

    #[test]
    fn its_verdicts_are_those_of_a_judge_that_tries_every_order() {
        let mut random = Random(1);
        let mut verdicts = [0_u32; 2];
        for _ in 0..20_000 {
            let history = history(&mut random);
            let verdict = is_linearizable(&history);
            assert_eq!(verdict, some_order_explains(&history), "{history:?}");
            verdicts[usize::from(verdict)] += 1;
        }
        assert!(verdicts.iter().all(|&count| count > 2000), "both verdicts are tried: {verdicts:?}");
    }

    /// Some calls that overlap, some of them unanswered; what reads say is drawn.
    fn history(random: &mut Random) -> Vec<Span> {
        let calls = 2 + random.below(6);
        let writes = 1 + random.below(3);
        let span = |number: u64, random: &mut Random| {
            let asked = random.below(12);
            let told = asked + random.below(6);
            match number < writes {
                true => write(asked, (random.below(4) > 0).then_some(told), number + 1),
                false => read(asked, told, random.below(writes + 1)),
            }
        };
        (0..calls).map(|number| span(number, random)).collect()
    }

    fn some_order_explains(spans: &[Span]) -> bool {
        let mut events: Vec<(Duration, bool, usize)> = Vec::new();
        for (number, span) in spans.iter().enumerate() {
            events.push((span.asked, false, number));
            events.extend(span.told.map(|told| (told, true, number)));
        }
        // What is asked comes before what is answered at the same moment.
        events.sort_unstable();
        let mut tester = LinearizabilityTester::new(Register(FIRST));
        for (_, is_answer, number) in events {
            // Each call is a thread of its own: one that was given up may be done while its client goes on.
            let noted = match (spans[number].call, is_answer) {
                (Call::Write(value), false) => tester.on_invoke(number, RegisterOp::Write(value)).is_ok(),
                (Call::Read(_), false) => tester.on_invoke(number, RegisterOp::Read).is_ok(),
                (Call::Write(_), true) => tester.on_return(number, RegisterRet::WriteOk).is_ok(),
                (Call::Read(value), true) => {
                    tester.on_return(number, RegisterRet::ReadOk(value.unwrap_or(FIRST))).is_ok()
                }
            };
            assert!(noted);
        }
        tester.is_consistent()
    }

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, count: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed ^ (mixed >> 31)) % count
        }
    }
}
