//! Every bound of this crate that has to do with several HSMs, with its reason. What belongs to one connection, to the
//! configuration or to a kind of call stands with it.

use std::time::Duration;

/// A call that takes longer is in the log by itself, unless it makes an RSA key: five times what leaving a dead HSM may
/// cost, and ten times a login.
pub(crate) const SLOW_CALL: Duration = Duration::from_millis(2500);

/// Silence on a connection that owes an answer after which its HSM is asked for a sign of life on another connection.
/// With [`PROBE`] it bounds how long a dead HSM is waited for; shorter, and every slow signature would cost a handshake.
pub(crate) const HEDGE: Duration = Duration::from_millis(150);

/// Time for that sign of life: a connection, a handshake and `Hello`. Some milliseconds on a busy HSM.
pub(crate) const PROBE: Duration = Duration::from_millis(200);

/// How soon a thread looks again while another one asks the same HSM.
pub(crate) const RECHECK: Duration = Duration::from_millis(20);

/// Longest pause between two such questions while an HSM works on one long operation (an RSA key).
pub(crate) const LONG_WORK: Duration = Duration::from_secs(2);

/// Time for the first attempt to connect while there are other HSMs to try; a far one gets more in the next rounds.
pub(crate) const FIRST_ROUND: Duration = Duration::from_millis(300);

/// Time for the second attempt; from the third on the configured one counts.
pub(crate) const SECOND_ROUND: Duration = Duration::from_secs(1);

/// First pause before a lost HSM is tried again while others serve, and the longest. Half of each is random, so that the
/// processes of a host do not come back at the same moment.
pub(crate) const VISIT_FIRST: Duration = Duration::from_millis(500);
pub(crate) const VISIT_LONGEST: Duration = Duration::from_secs(8);

/// Within this time the processes that have lost an HSM connect to the others, each at a random moment: a handshake costs
/// an HSM some 0.3 ms, so a hundred processes fit.
pub(crate) const SPREAD: Duration = Duration::from_millis(50);

/// Calls in flight by which another HSM must have less before a thread leaves its usual one. With one, every thread would
/// move at each call, and fewer frames would share a write.
pub(crate) const IMBALANCE: u32 = 2;

/// Longest time for which a login that shall come again is made to wait here instead of in the application: so many
/// logins at once. The wait after wrong passwords begins with a second, and the application hears of it.
pub(crate) const LOGIN_WAIT_MILLISECONDS: u64 = 250;

/// Shortest time between two questions for the roster: HSMs of different versions of the program may never agree on it.
pub(crate) const ROSTER_PAUSE: Duration = Duration::from_secs(1);

/// Members of a roster that are taken over. A cluster has 28 HSMs and a witness; more is not believed.
pub(crate) const MEMBERS: usize = 64;

/// A dead HSM is left within half a second (the promise of the design), with a tenth of it for threads to wake up.
const LEFT_WITHIN: Duration = Duration::from_millis(500);

const _: () = assert!(
    HEDGE.as_millis() + PROBE.as_millis() + RECHECK.as_millis() + SPREAD.as_millis() <= LEFT_WITHIN.as_millis()
);
const _: () = assert!(FIRST_ROUND.as_millis() < LEFT_WITHIN.as_millis());
