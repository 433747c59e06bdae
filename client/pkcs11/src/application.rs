//! The application between `C_Initialize` and `C_Finalize`, and the one place of the process that holds it.
//!
//! A child of a fork finds its parent's instance by the process id at every call and begins with an empty one: it never
//! touches a lock that another thread of the parent may have held, and leaves what it inherited in memory for good,
//! except the sockets, which are closed without a byte. There is no thread, no `atexit`, no destructor at unload.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::lock::RwLock;
use cryptoki_sys::*;
use hsm_client::Configuration;

use crate::limits::SLOT_BITS;
use crate::log;
use crate::return_value::{Outcome, ReturnValue, refuse};
use crate::session::Session;
use crate::slot::Slot;

/// What stands between `C_Initialize` and `C_Finalize`.
pub struct Application {
    slots: Vec<Arc<Slot>>,
}

/// The state of one process: replaced, never changed, when the process id says that this is another one.
struct Instance {
    process: u32,
    application: RwLock<Option<Arc<Application>>>,
}

static INSTANCE: AtomicPtr<Instance> = AtomicPtr::new(std::ptr::null_mut());

impl Application {
    fn new(configuration: Configuration) -> Outcome<Self> {
        if configuration.clusters.len() >> SLOT_BITS != 0 {
            tracing::error!("client.toml has {} clusters, more than this library takes", configuration.clusters.len());
            return refuse(CKR_GENERAL_ERROR);
        }
        let numbered = configuration.clusters.into_iter().zip(0..);
        Ok(Self { slots: numbered.map(|(cluster, id)| Arc::new(Slot::new(id, cluster))).collect() })
    }

    /// The slots, in the order of the configuration.
    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    pub(crate) fn slot(&self, id: CK_SLOT_ID) -> Outcome<&Arc<Slot>> {
        let position = usize::try_from(id).ok();
        position.and_then(|position| self.slots.get(position)).ok_or(ReturnValue(CKR_SLOT_ID_INVALID))
    }

    pub(crate) fn session(&self, handle: CK_SESSION_HANDLE) -> Outcome<Arc<Session>> {
        let slot = self.slot(handle & ((1 << SLOT_BITS) - 1)).map_err(|_| ReturnValue(CKR_SESSION_HANDLE_INVALID))?;
        slot.session(handle)
    }
}

/// `C_Initialize`: reads the configuration. Connects to nothing.
pub(crate) fn initialize() -> Outcome {
    let mut application = instance().application.write();
    if application.is_some() {
        return refuse(CKR_CRYPTOKI_ALREADY_INITIALIZED);
    }
    let configuration = match Configuration::load() {
        Ok(configuration) => configuration,
        Err(error) => {
            log::configure(&hsm_client::LogConfiguration::default());
            tracing::error!("{error}");
            return refuse(CKR_GENERAL_ERROR);
        }
    };
    log::configure(&configuration.log);
    *application = Some(Arc::new(Application::new(configuration)?));
    Ok(())
}

/// `C_Finalize`: ends all logins and closes all connections that no other thread's call still uses.
pub(crate) fn finalize() -> Outcome {
    let application = instance().application.write().take();
    let Some(application) = application else { return refuse(CKR_CRYPTOKI_NOT_INITIALIZED) };
    for slot in application.slots() {
        slot.close_all_sessions();
    }
    drop(application);
    log::close_file();
    Ok(())
}

/// The application of this process.
///
/// # Errors
/// `CKR_CRYPTOKI_NOT_INITIALIZED`, also in a child of a fork that has not called `C_Initialize` itself.
pub(crate) fn current() -> Outcome<Arc<Application>> {
    instance().application.read().clone().ok_or(ReturnValue(CKR_CRYPTOKI_NOT_INITIALIZED))
}

/// The instance of this process; an inherited one is let go of.
#[expect(unsafe_code, reason = "a pointer to an instance that lives for ever, swapped without a lock")]
fn instance() -> &'static Instance {
    let process = std::process::id();
    let mut found = INSTANCE.load(Ordering::Acquire);
    loop {
        // SAFETY: the pointer is NULL or came from `Box::into_raw` below and is never freed.
        if let Some(instance) = unsafe { found.as_ref() }
            && instance.process == process
        {
            return instance;
        }
        let fresh = Box::into_raw(Box::new(Instance { process, application: RwLock::new(None) }));
        match INSTANCE.compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: as above.
                if let Some(inherited) = unsafe { found.as_ref() } {
                    abandon(inherited);
                }
            }
            Err(_) => {
                // SAFETY: another thread was faster; `fresh` was not shared.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
        found = INSTANCE.load(Ordering::Acquire);
    }
}

/// In a forked child: closes the inherited sockets and leaves everything else where it lies. Other threads of the parent
/// may have held any lock and have been in the midst of any change, so nothing else is touched.
fn abandon(inherited: &Instance) {
    let Some(application) = inherited.application.try_read() else { return };
    let Some(application) = application.as_ref() else { return };
    for slot in &application.slots {
        slot.device().abandon();
    }
}
