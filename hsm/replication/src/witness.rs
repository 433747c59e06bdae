//! A witness that leads hands the lead to an HSM as soon as one has its whole log. It stands itself only when no HSM did for
//! long.

use std::sync::Arc;

use openraft::AsyncRuntime;

use crate::engine::Shared;
use crate::limits;
use crate::runtime::Rt;

/// The witness's task: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        <Rt as AsyncRuntime>::sleep(limits::SUPERVISION).await;
        for heir in shared.heirs() {
            tracing::info!(heir, "the witness hands the lead over");
            if shared.hand_over(heir).await {
                break;
            }
        }
    }
}
