//! Known-answer tests at start: each family must give an answer that was computed elsewhere.
//!
//! The answers lie in `testdata/`, one file per case with its source; they are compiled in. All of it takes a few
//! milliseconds. A test that fails names its family, and the process must not go on.

mod asymmetric;
mod case;
mod symmetric;

use crate::fault::SelfTestFailure;
use crate::wide::Failed;
use case::Case;

/// A test: its name and what it does. `Ok(true)` = the right answer.
type Test = (&'static str, fn() -> Result<bool, Failed>);

/// Runs every test.
pub(crate) fn known_answers() -> Result<(), SelfTestFailure> {
    let failed = symmetric::TESTS.iter().chain(asymmetric::TESTS).find(|(_, test)| test() != Ok(true));
    failed.map_or(Ok(()), |(name, _)| Err(SelfTestFailure::KnownAnswer(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_answer_comes_out_and_in_time() {
        let begin = std::time::Instant::now();
        for (name, test) in symmetric::TESTS.iter().chain(asymmetric::TESTS) {
            assert_eq!(test(), Ok(true), "{name}");
        }
        let elapsed = begin.elapsed();
        assert!(elapsed.as_millis() < 300, "{elapsed:?}");
    }
}
