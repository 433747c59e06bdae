//! Which of several HSMs a call takes: its thread's usual one, unless another one, drawn at random, has less to do.
//!
//! This is the power of two choices, with a first choice that stays: the threads of a process keep to one HSM each, so
//! that their frames go on sharing writes, and a process of one thread opens one connection. The usual one is another in
//! each process. Pure: what is eligible, how busy it is and the random numbers come in as arguments.

use crate::limits::IMBALANCE;

/// What draws a choice.
#[derive(Clone, Copy)]
pub(crate) struct Draw {
    /// The thread's own number: the same in each of its calls.
    pub(crate) usual: u64,
    /// A number that is new in each call.
    pub(crate) random: u64,
}

/// A position below `count`, or `None` when none is eligible. `busy` gives the calls in flight.
pub(crate) fn choose(
    count: usize,
    draw: Draw,
    eligible: impl Fn(usize) -> bool,
    busy: impl Fn(usize) -> u32,
) -> Option<usize> {
    if count <= 1 {
        return (count == 1 && eligible(0)).then_some(0);
    }
    let usual = below(draw.usual, count);
    let usual = if eligible(usual) {
        usual
    } else {
        // Not simply the next one, which would take all of the lost one's threads.
        nth_eligible(count, draw.usual.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32, &eligible, None)?
    };
    match nth_eligible(count, draw.random, &eligible, Some(usual)) {
        Some(other) if busy(usual) >= busy(other).saturating_add(IMBALANCE) => Some(other),
        _ => Some(usual),
    }
}

fn below(number: u64, count: usize) -> usize {
    usize::try_from(number % count as u64).unwrap_or(0)
}

/// One of the eligible positions but `except`, each as likely as the others.
fn nth_eligible(count: usize, number: u64, eligible: impl Fn(usize) -> bool, except: Option<usize>) -> Option<usize> {
    let candidates = || (0..count).filter(|&position| Some(position) != except && eligible(position));
    match candidates().count() {
        0 => None,
        found => candidates().nth(below(number, found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> impl FnMut() -> u64 {
        let mut state = 0x1234_5678_9abc_def1_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    #[test]
    fn threads_that_find_nobody_busy_keep_to_their_usual_hsm() {
        let mut random = numbers();
        for usual in 0..6 {
            for _ in 0..100 {
                let draw = Draw { usual, random: random() };
                assert_eq!(choose(3, draw, |_| true, |_| 0), Some(usize::try_from(usual % 3).unwrap()));
            }
        }
    }

    #[test]
    fn calls_spread_until_no_hsm_has_two_more_in_flight_than_another() {
        let mut random = numbers();
        // Everybody's usual one is the first.
        let mut busy = [0_u32; 4];
        for _ in 0..400 {
            let draw = Draw { usual: 0, random: random() };
            let chosen = choose(4, draw, |_| true, |position| busy[position]).unwrap();
            busy[chosen] += 1;
        }
        let (least, most) = (busy.iter().min().unwrap(), busy.iter().max().unwrap());
        assert!(most - least <= 8, "{busy:?}");
    }

    #[test]
    fn the_threads_of_a_lost_hsm_are_spread_over_all_others() {
        let mut random = numbers();
        let mut taken = [0_u32; 5];
        for _ in 0..4000 {
            let draw = Draw { usual: random(), random: random() };
            taken[choose(5, draw, |position| position != 2, |_| 0).unwrap()] += 1;
        }
        assert_eq!(taken[2], 0);
        assert!(taken.iter().enumerate().all(|(position, &count)| position == 2 || (800..1200).contains(&count)));
    }

    #[test]
    fn nobody_is_chosen_when_nobody_is_eligible() {
        let draw = Draw { usual: 7, random: 9 };
        assert_eq!(choose(0, draw, |_| true, |_| 0), None);
        assert_eq!(choose(1, draw, |_| false, |_| 0), None);
        assert_eq!(choose(3, draw, |_| false, |_| 0), None);
        assert_eq!(choose(3, draw, |position| position == 1, |_| 9), Some(1));
    }
}
