//! Two small models of what the cluster must never do, explored in every state that they have.
//!
//! [`barrier`] is the promise that no HSM uses a key after its deletion was acknowledged. [`restart`] is the check by
//! which a voter with an old disk is kept from voting. Each has rules that can be broken one by one; the tests show that
//! the rules as they stand lead to no bad state, and that each broken one leads to a bad state of the right name. What
//! they taught stands in `docs/adr/0040` and `docs/adr/0041`.
//!
//! A model is not the program: the simulator runs the program. A model says which rules the program must follow, and that
//! none of them is superfluous. Nothing here may be used by the product.

pub mod barrier;
pub mod restart;
