//! Which async runtime openraft runs on: tokio, or under `cfg(hsm_sim)` tokio with everything that chance decides drawn
//! from a seed.

#[cfg(hsm_sim)]
mod simulated;

/// The runtime of the product.
#[cfg(not(hsm_sim))]
pub type Rt = openraft::TokioRuntime;

#[cfg(hsm_sim)]
pub use simulated::{NodeContext, SimInstant, SimRt as Rt};

/// Runs something that waits for the disk. Where a runtime has several threads, other tasks move to another one
/// meanwhile; on a single thread (the product's own, and a simulation's) it runs where it is.
pub(crate) fn wait_for_disk<T>(run: impl FnOnce() -> T) -> T {
    let many_threads = tokio::runtime::Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if many_threads { tokio::task::block_in_place(run) } else { run() }
}

/// Runs something that takes long on another thread, so that what this one has to do does not wait for it. In a simulation,
/// where there is one thread, it runs where it is.
pub(crate) async fn aside<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(hsm_sim)]
    return run();
    #[cfg(not(hsm_sim))]
    match tokio::task::spawn_blocking(run).await {
        Ok(done) => done,
        // It is not aborted by anybody, so it panicked.
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}
