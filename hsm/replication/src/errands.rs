//! Work that another thread asks for and that a node's own tasks do: only they may sleep and spawn on the runtime that
//! openraft runs on.

use std::pin::Pin;

use openraft::AsyncRuntime;
use tokio::sync::{mpsc, oneshot};

use crate::runtime::Rt;

type Errand = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where errands are given.
pub(crate) struct Errands(mpsc::UnboundedSender<Errand>);

/// Where they come out.
pub(crate) struct Waiting(mpsc::UnboundedReceiver<Errand>);

/// The two ends.
pub(crate) fn errands() -> (Errands, Waiting) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Errands(sender), Waiting(receiver))
}

impl Errands {
    /// Has it done; `None` when the node stops. The answer may be waited for on any thread, in any runtime or none.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let errand = async move {
            // Whoever asked may not wait any more.
            drop(tell.send(work.await));
        };
        self.0.send(Box::pin(errand)).ok()?;
        told.await.ok()
    }
}

impl Errands {
    /// Has it done, some time. A node that stops does it not.
    pub(crate) fn give(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.send(Box::pin(work)).ok();
    }
}

impl Waiting {
    /// Starts each errand as it comes, until the node stops.
    pub(crate) async fn run(mut self) {
        while let Some(errand) = self.0.recv().await {
            drop(<Rt as AsyncRuntime>::spawn(errand));
        }
    }
}
