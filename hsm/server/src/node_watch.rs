//! What becomes of a node's faults: while it starts, a result for whoever starts it; in service, the end of the process.

use std::io::ErrorKind;
use std::sync::Arc;

use hsm_replication::{OpenFault, StorageFault};
use parking_lot::Mutex;

use crate::data_folder::DataFolder;
use crate::dispatch::Effects;
use crate::exit::Fault;
use crate::member::Surroundings;
use crate::peers::Peers;

/// The settings of this HSM's node.
pub(crate) fn settings(
    surroundings: &Surroundings,
    effects: &Arc<Effects>,
    watch: &Arc<Watch>,
) -> hsm_replication::Settings {
    let mut settings = hsm_replication::Settings::at(surroundings.folder.store());
    settings.effects = Arc::<Effects>::clone(effects);
    if let Some(peers) = &surroundings.peers {
        settings.network = Arc::<Peers>::clone(peers);
        settings.address = peers.settings().address.to_string();
    }
    settings.on_standing = Arc::clone(&surroundings.on_standing);
    settings.witness = surroundings.settings.witness();
    settings.newest_state = surroundings.settings.newest_state();
    let watch = Arc::clone(watch);
    settings.on_fault = Arc::new(move |fault| watch.report(fault));
    settings
}

/// Passes a node's fault on to the process once the node is in service. Before, whoever forms or opens it is told by the
/// result, and a cluster that could not be formed must not end the process.
pub(crate) struct Watch {
    on_fault: Arc<dyn Fn(hsm_replication::Fault) + Send + Sync>,
    stage: Mutex<Stage>,
}

enum Stage {
    Starting(Option<hsm_replication::Fault>),
    InService,
}

impl Watch {
    pub(crate) fn new(surroundings: &Surroundings) -> Arc<Self> {
        let on_fault = Arc::clone(&surroundings.on_fault);
        Arc::new(Self { on_fault, stage: Mutex::new(Stage::Starting(None)) })
    }

    fn report(&self, fault: hsm_replication::Fault) {
        match &mut *self.stage.lock() {
            Stage::Starting(first) => *first = Some(fault),
            Stage::InService => (self.on_fault)(fault),
        }
    }

    /// The fault that the node met while it started, if that was a full disk.
    pub(crate) fn disk_fault(&self, folder: &DataFolder) -> Option<Fault> {
        match &*self.stage.lock() {
            Stage::Starting(Some(hsm_replication::Fault::StorageFull)) => Some(disk_full(folder)),
            _ => None,
        }
    }

    /// The node is in service; what it reported since it started counts.
    pub(crate) fn begin(&self) {
        if let Stage::Starting(Some(fault)) = std::mem::replace(&mut *self.stage.lock(), Stage::InService) {
            (self.on_fault)(fault);
        }
    }
}

/// The store's fault with the file that it is about.
pub(crate) fn open_fault(folder: &DataFolder, fault: OpenFault) -> Fault {
    const RESTORE: &str = "Restore store.redb and store.mark together from a copy of the data folder";
    let file = folder.store();
    let cause = fault.to_string();
    match fault {
        OpenFault::InUse(_) => Fault::InUse { folder: folder.path().to_owned() },
        // A file that is no store, or one cut short, reaches us as an error of reading.
        OpenFault::Storage(StorageFault::Disk(error)) => match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Fault::Broken { file, cause, remedy: RESTORE },
            _ => Fault::disk(file, &error),
        },
        OpenFault::Storage(StorageFault::Full) => disk_full(folder),
        OpenFault::OtherKey => {
            Fault::RootOfTrust { file: folder.seal(), cause, remedy: "Bring back the seal that belongs to this store" }
        }
        OpenFault::NewerFormat { .. } | OpenFault::NewerState { .. } => {
            Fault::Broken { file, cause, remedy: "Use a newer kagimori-hsm" }
        }
        OpenFault::AlreadyFormed(_)
        | OpenFault::NotFormed(_)
        | OpenFault::OtherNode { .. }
        | OpenFault::RolledBack { .. }
        | OpenFault::Storage(_)
        | OpenFault::State(_) => Fault::Broken { file, cause, remedy: RESTORE },
        OpenFault::Engine(_) | OpenFault::Form(_) | OpenFault::Recovery(_) => Fault::Stopped(cause),
    }
}

/// No room for the store.
pub(crate) fn disk_full(folder: &DataFolder) -> Fault {
    Fault::Disk { file: folder.store(), cause: "no space is left".to_owned() }
}
