//! Every bound of this load, with its reason.

use std::time::Duration;

/// Threads that sign. Two cores serve everybody here: more would only wait for each other.
pub(crate) const SIGNERS: usize = 2;

/// Threads that make and destroy keys.
pub(crate) const MAKERS: usize = 2;

/// Threads that write and read labels.
pub(crate) const SHARERS: usize = 4;

/// Pause of each thread between two calls: the load is there to be disturbed, and not to be the disturbance.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Calls on one register: a history that has no order is printed, and must be short enough to be read.
pub(crate) const REGISTER_CALLS: usize = 40;

/// Keys that a maker keeps before it destroys its oldest.
pub(crate) const KEPT: usize = 20;

/// How long a key that was destroyed is tried at each HSM after nobody may use it any more.
pub(crate) const PROBED_AFTER: Duration = Duration::from_millis(1500);

/// Time for one such trial. An HSM that is stopped or starts does not answer, and that is no fault.
pub(crate) const PROBE_CALL: Duration = Duration::from_millis(500);

/// Destroyed keys that wait to be tried. When there are more, some are not tried, which the report counts.
pub(crate) const PROBES_WAITING: usize = 24;

/// How long an application waits for a call. Longer than any fault of `cargo xtask chaos`, so that what fails fails for
/// another reason.
pub(crate) const CALL: Duration = Duration::from_secs(60);

/// Errors and violations that a report repeats word for word.
pub(crate) const REPEATED: usize = 20;

/// How long HSMs may take until they are equal after the last fault: a replaced disk comes back as a new member.
pub(crate) const EQUAL: Duration = Duration::from_secs(90);
