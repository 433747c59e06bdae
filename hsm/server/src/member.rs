//! This HSM as a member of a cluster: its keys, its node, its service, and the doors through which clients come.
//!
//! [`Member::form`] makes a cluster of one, [`Member::open`] goes on with what is on disk, [`Member::open_doors`] lets
//! clients in once there is a certificate to show. It must not decide when: `process` does.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hsm_core::command::{CeremonyCertificates, Form, Origin};
use hsm_core::{Action, ClusterId, ClusterRecord, Epoch, Incarnation};
use hsm_crypto::{ClusterKeys, MasterKey, Module};
use hsm_protocol::Lifecycle;
use hsm_replication::{Node, OpenFault, Outcome, StorageFault};
use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use crate::ceremony::CeremonyKey;
use crate::command_line::SocketAccess;
use crate::connection::{serve_tls, serve_unix};
use crate::data_folder::DataFolder;
use crate::dispatch::{Effects, Service, ServiceParts};
use crate::exit::Fault;
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::peer::Source;
use crate::settings::Settings;
use crate::tls::{self, ClientCertificates};
use crate::{installation, limits, root_of_trust};

/// What the seal of the cluster's TLS key is bound to.
const PURPOSE_CLUSTER_KEY: &str = "cluster TLS key";

/// What the seal of the activation password is bound to.
const PURPOSE_ACTIVATION: &str = "activation password";

/// Letters and digits, as passwords that quickstart prints must be typed and quoted by people.
const PASSWORD_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What a member needs of the process around it.
pub struct Surroundings {
    /// Checked settings.
    pub settings: Settings,
    /// The data folder, locked.
    pub folder: DataFolder,
    /// The cryptographic module, tested.
    pub module: Arc<Module>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// This HSM's random name.
    pub hsm: [u8; 16],
    /// Makes the sink for effects that is given to a node.
    pub effects: Box<dyn Fn() -> Arc<Effects> + Send + Sync>,
    /// Called when the node can not go on.
    pub on_fault: Arc<dyn Fn(hsm_replication::Fault) + Send + Sync>,
}

/// A member of a cluster.
pub struct Member {
    surroundings: Arc<Surroundings>,
    node: Arc<Node>,
    keys: Arc<ClusterKeys>,
    service: Arc<Service>,
    doors: Mutex<Doors>,
}

/// What clients come in by.
#[derive(Default)]
struct Doors {
    tls: Option<Arc<RwLock<Arc<rustls::ServerConfig>>>>,
    clients: ClientCertificates,
    certificate: String,
    listeners: Vec<Listener>,
    address: Option<SocketAddr>,
}

impl Member {
    /// Makes a cluster whose only member is this HSM. Blocks for a second.
    ///
    /// # Errors
    /// [`Fault`]; what was begun is undone by the next [`Member::open`].
    pub fn form(surroundings: &Arc<Surroundings>, label: &str, fips: bool) -> Result<Self, Fault> {
        let Surroundings { settings, folder, module, .. } = &**surroundings;
        discard_unfinished(folder)?;
        let master = MasterKey::generate(module, FIRST_EPOCH).map_err(|fault| stopped(&fault))?;
        let root = root_of_trust::open(module, folder, settings.root_of_trust(), true)?;
        let seal = master.seal(module, &root).map_err(|fault| stopped(&fault))?;
        let cluster = ClusterId(random(module)?);
        let keys = ClusterKeys::new(&master, cluster).map_err(|fault| stopped(&fault))?;
        let form = first_command(surroundings, &keys, cluster, label, fips)?;
        folder.write(&folder.forming_seal(), &seal)?;
        let effects = (surroundings.effects)();
        let watch = Watch::new(surroundings);
        let storage = master.storage_key(module).map_err(|fault| stopped(&fault))?;
        let node = Node::form(node_settings(surroundings, &effects, &watch), storage, form)
            .map_err(|fault| open_fault(folder, fault))?;
        watch.begin();
        folder.rename(&folder.forming_seal(), &folder.seal())?;
        tracing::info!(cluster = %hexadecimal(&cluster.0), fips, memory = ?master.memory(), "cluster formed");
        Self::around(surroundings, node, keys, effects)
    }

    /// Goes on with the cluster in the data folder; `None` when this HSM belongs to none.
    ///
    /// # Errors
    /// [`Fault`] that names the file and what to do; nothing is repaired.
    pub fn open(surroundings: &Arc<Surroundings>) -> Result<Option<Self>, Fault> {
        let Surroundings { settings, folder, module, .. } = &**surroundings;
        if !folder.store().exists() {
            if folder.seal().exists() {
                return Err(Fault::Broken {
                    file: folder.store(),
                    cause: "master.seal is there but the store is not".to_owned(),
                    remedy: "Restore store.redb and store.mark from a copy; to begin a new cluster instead, use an empty \
                             data folder",
                });
            }
            discard_unfinished(folder)?;
            return Ok(None);
        }
        let forming = !folder.seal().exists() && folder.forming_seal().exists();
        let seal = if forming { folder.forming_seal() } else { folder.seal() };
        let root = root_of_trust::open(module, folder, settings.root_of_trust(), false)?;
        let master = root_of_trust::unseal(folder, &root, seal)?;
        let effects = (surroundings.effects)();
        let storage = master.storage_key(module).map_err(|fault| stopped(&fault))?;
        let watch = Watch::new(surroundings);
        let node = match Node::open(node_settings(surroundings, &effects, &watch), storage) {
            Ok(node) => node,
            Err(OpenFault::NotFormed(_)) if forming => {
                discard_unfinished(folder)?;
                return Ok(None);
            }
            Err(fault) => return Err(open_fault(folder, fault)),
        };
        watch.begin();
        if forming {
            folder.rename(&folder.forming_seal(), &folder.seal())?;
        }
        let cluster = node.read().cluster().map(|record| record.cluster).ok_or_else(|| Fault::Broken {
            file: folder.store(),
            cause: "the state holds no cluster".to_owned(),
            remedy: "Restore store.redb and store.mark from a copy",
        })?;
        let keys = ClusterKeys::new(&master, cluster).map_err(|fault| stopped(&fault))?;
        tracing::info!(cluster = %hexadecimal(&cluster.0), memory = ?master.memory(), "cluster opened");
        Self::around(surroundings, node, keys, effects).map(Some)
    }

    fn around(
        surroundings: &Arc<Surroundings>,
        node: Node,
        keys: ClusterKeys,
        effects: Arc<Effects>,
    ) -> Result<Self, Fault> {
        let (node, keys) = (Arc::new(node), Arc::new(keys));
        let parts = ServiceParts {
            node: Arc::clone(&node),
            module: Arc::clone(&surroundings.module),
            keys: Arc::clone(&keys),
            metrics: Arc::clone(&surroundings.metrics),
            effects,
            hsm: surroundings.hsm,
            address: surroundings.settings.listen().to_string(),
        };
        let service = Service::new(parts).map_err(|error| stopped(&error))?;
        Ok(Self { surroundings: Arc::clone(surroundings), node, keys, service, doors: Mutex::default() })
    }

    /// The node, for asking and proposing.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Proposes on management's or the process's own behalf, and waits.
    pub fn propose(&self, action: Action) -> Outcome {
        self.surroundings.metrics.proposal();
        self.node.propose_and_wait(NOBODY, action, limits::PROPOSAL_TIME)
    }

    /// Ends sessions whose time is over, if there are any sessions. Does not wait.
    pub fn expire_sessions(&self) {
        if self.node.read().session_count() == 0 {
            return;
        }
        self.surroundings.metrics.proposal();
        let done = |outcome| match outcome {
            Outcome::Done { result: Ok(_), .. } => {}
            Outcome::Done { result: Err(refusal), .. } => tracing::warn!(%refusal, "sessions were not expired"),
            Outcome::Unavailable(code) => tracing::debug!(%code, "sessions were not expired; the next round will"),
            Outcome::Unknown => tracing::debug!("whether sessions were expired is unknown; the next round will"),
        };
        self.node.propose(NOBODY, Action::ExpireSessions, Box::new(done));
    }

    /// The activation password; `None` once the cluster is active.
    ///
    /// # Errors
    /// [`Fault::Stopped`] when its seal does not open: the state is broken.
    pub fn activation_password(&self) -> Result<Option<Zeroizing<String>>, Fault> {
        let sealed = self.node.read().cluster().map(|record| record.sealed_activation_password.clone());
        let Some(sealed) = sealed.filter(|sealed| !sealed.is_empty()) else { return Ok(None) };
        let opened = self.keys.open_bytes(PURPOSE_ACTIVATION, &sealed).map_err(|fault| stopped(&fault))?;
        let password = std::str::from_utf8(opened.expose()).map_err(|fault| stopped(&fault))?;
        Ok(Some(Zeroizing::new(password.to_owned())))
    }

    /// The cluster's public key: DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Fault::Stopped`] when the seal of the key does not open: the state is broken.
    pub fn cluster_public_key(&self) -> Result<Vec<u8>, Fault> {
        let sealed = self.node.read().cluster().map(|record| record.sealed_cluster_key.clone()).unwrap_or_default();
        let key = self.open_cluster_key(&sealed)?;
        Ok(CeremonyKey::from_pkcs8(&key).map_err(|fault| stopped(&fault))?.public_key())
    }

    fn open_cluster_key(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let key = self.keys.open_bytes(PURPOSE_CLUSTER_KEY, sealed);
        let key = key.map_err(|_| stopped(&"the seal of the cluster's TLS key does not open"))?;
        Ok(Zeroizing::new(key.expose().to_vec()))
    }

    /// Where clients come in over TLS, once they may.
    pub fn client_address(&self) -> Option<SocketAddr> {
        self.doors.lock().address
    }

    /// Lets clients in if the cluster has a certificate, or follows a change of certificate or of the rule for client
    /// certificates. Says whether connections that began before the change must be closed.
    ///
    /// # Errors
    /// [`Fault::Listen`], or [`Fault::Stopped`] when what the state holds cannot be used.
    pub fn open_doors(&self) -> Result<bool, Fault> {
        let doors = &mut *self.doors.lock();
        let Some(record) = self.node.read().cluster().cloned() else { return Ok(false) };
        if record.certificate.is_empty() || record.lifecycle == Lifecycle::Zeroized {
            return Ok(false);
        }
        let clients = client_rule(&record);
        if doors.tls.is_some() && doors.clients == clients && doors.certificate == record.certificate {
            return Ok(false);
        }
        let key = self.open_cluster_key(&record.sealed_cluster_key)?;
        let configuration =
            tls::server_configuration(&record.certificate, key, &clients).map_err(|fault| stopped(&fault))?;
        let rule_changed = doors.tls.is_some() && doors.clients != clients;
        match &doors.tls {
            Some(current) => *current.write() = configuration,
            None => self.open_listeners(doors, configuration)?,
        }
        doors.clients = clients;
        doors.certificate = record.certificate;
        tracing::info!(client_certificates = doors.clients.required, "TLS is set up");
        Ok(rule_changed)
    }

    fn open_listeners(&self, doors: &mut Doors, configuration: Arc<rustls::ServerConfig>) -> Result<(), Fault> {
        let Surroundings { settings, metrics, .. } = &*self.surroundings;
        let listener = TcpListener::bind(settings.listen()).map_err(|error| listen(settings.listen(), &error))?;
        let address = listener.local_addr().map_err(|error| listen(settings.listen(), &error))?;
        let current = Arc::new(RwLock::new(configuration));
        let (service, tls) = (Arc::clone(&self.service), Arc::clone(&current));
        let serve = Arc::new(move |stream, peer| {
            let configuration = Arc::clone(&tls.read());
            serve_tls(&service, stream, configuration, peer);
        });
        let listener = Listener::start_tls(listener, settings.connections(), Arc::clone(metrics), serve)
            .map_err(|error| listen(address, &error))?;
        doors.listeners.push(listener);
        if let Some((path, access)) = settings.unix_socket() {
            let listener = bind_unix(path, access)?;
            let service = Arc::clone(&self.service);
            let serve = Arc::new(move |stream, peer| serve_unix(&service, stream, peer));
            let listener = Listener::start_unix(listener, Arc::clone(metrics), serve)
                .map_err(|error| listen(path.display(), &error))?;
            doors.listeners.push(listener);
        }
        doors.tls = Some(current);
        doors.address = Some(address);
        tracing::info!(%address, socket = ?settings.unix_socket().map(|(path, _)| path), "clients may connect");
        Ok(())
    }

    /// Ends every connection over TLS: they began under another rule for client certificates. Clients come again by
    /// themselves, and are judged by the new one.
    pub fn close_tls_connections(&self) {
        self.service.close_all(|facts| matches!(facts.source, Source::Network(_)));
    }

    /// Lets nobody in any more, ends what is under way within the time for it, and closes the store.
    pub fn stop(&self) {
        self.close_doors();
        self.service.stop(limits::STOP_TIME);
        self.node.stop();
    }

    /// Destroys the cluster master key's seal and root key. What the process still holds goes with the process.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn destroy_seal(&self) -> Result<(), Fault> {
        let folder = &self.surroundings.folder;
        folder.destroy(&folder.seal())?;
        folder.destroy(&folder.root_key())
    }

    fn close_doors(&self) {
        let doors = std::mem::take(&mut *self.doors.lock());
        drop(doors);
        if let Some((path, _)) = self.surroundings.settings.unix_socket()
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "the client socket was not removed");
        }
    }
}

/// In whose name management and housekeeping propose.
const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

/// Epoch of a new cluster's master key.
const FIRST_EPOCH: Epoch = Epoch(1);

/// Everything that a new cluster begins with.
fn first_command(
    surroundings: &Surroundings,
    keys: &ClusterKeys,
    cluster: ClusterId,
    label: &str,
    fips: bool,
) -> Result<Form, Fault> {
    let module = &surroundings.module;
    let now = now();
    let hsm = hexadecimal(&surroundings.hsm[..8]);
    let installation = installation::read_or_make(&surroundings.folder, &hsm, now)?;
    let identity = installation.make_cluster_identity(&hsm, fips, now).map_err(|fault| stopped(&fault))?;
    let password = activation_password(module)?;
    let seal = |purpose, bytes: &[u8]| keys.seal_bytes(module, purpose, bytes).map_err(|fault| stopped(&fault));
    Ok(Form {
        cluster,
        incarnation: Incarnation(random(module)?),
        fips,
        label: label.to_owned(),
        epoch: FIRST_EPOCH,
        lifecycle: Lifecycle::Uninitialized,
        activation: hsm_crypto::password::make(module, password.as_bytes(), fips).map_err(|fault| stopped(&fault))?,
        sealed_activation_password: seal(PURPOSE_ACTIVATION, password.as_bytes())?,
        sealed_cluster_key: seal(PURPOSE_CLUSTER_KEY, &identity.key.pkcs8())?,
        certificates: CeremonyCertificates {
            cluster_csr: identity.cluster_csr,
            hsm_certificate: identity.hsm_certificate,
            aws_hardware_certificate: installation.certificates.aws_hardware,
            manufacturer_hardware_certificate: installation.certificates.manufacturer_hardware,
        },
    })
}

/// Random letters and digits, each equally likely: octets above the last multiple of 62 are drawn again.
fn activation_password(module: &Module) -> Result<Zeroizing<String>, Fault> {
    const FAIR: u8 = u8::MAX - u8::MAX % 62;
    let mut password = Zeroizing::new(String::with_capacity(limits::ACTIVATION_PASSWORD_CHARACTERS));
    while password.len() < limits::ACTIVATION_PASSWORD_CHARACTERS {
        let [octet] = random::<1>(module)?;
        if octet < FAIR {
            password.push(char::from(PASSWORD_ALPHABET[usize::from(octet % 62)]));
        }
    }
    Ok(password)
}

/// Removes what an interrupted `form` left. Nothing of it was ever acknowledged: the seal has its last name only after
/// the first command is durable.
fn discard_unfinished(folder: &DataFolder) -> Result<(), Fault> {
    if folder.forming_seal().exists() && !folder.seal().exists() {
        tracing::warn!("an unfinished cluster is discarded: the process ended while it was being formed");
        folder.remove(&folder.store())?;
        folder.remove(&folder.store_mark())?;
        folder.remove(&folder.forming_seal())?;
    }
    Ok(())
}

fn node_settings(surroundings: &Surroundings, effects: &Arc<Effects>, watch: &Arc<Watch>) -> hsm_replication::Settings {
    let mut settings = hsm_replication::Settings::at(surroundings.folder.store());
    settings.effects = Arc::<Effects>::clone(effects);
    let watch = Arc::clone(watch);
    settings.on_fault = Arc::new(move |fault| watch.report(fault));
    settings
}

/// Passes a node's fault on to the process once the node is in service. Before, whoever forms or opens it is told by the
/// result, and a cluster that could not be formed must not end the process.
struct Watch {
    on_fault: Arc<dyn Fn(hsm_replication::Fault) + Send + Sync>,
    stage: Mutex<Stage>,
}

enum Stage {
    Starting(Option<hsm_replication::Fault>),
    InService,
}

impl Watch {
    fn new(surroundings: &Surroundings) -> Arc<Self> {
        let on_fault = Arc::clone(&surroundings.on_fault);
        Arc::new(Self { on_fault, stage: Mutex::new(Stage::Starting(None)) })
    }

    fn report(&self, fault: hsm_replication::Fault) {
        match &mut *self.stage.lock() {
            Stage::Starting(first) => *first = Some(fault),
            Stage::InService => (self.on_fault)(fault),
        }
    }

    /// The node is in service; what it reported since it started counts.
    fn begin(&self) {
        if let Stage::Starting(Some(fault)) = std::mem::replace(&mut *self.stage.lock(), Stage::InService) {
            (self.on_fault)(fault);
        }
    }
}

fn client_rule(record: &ClusterRecord) -> ClientCertificates {
    if !record.client_certificates_required {
        return ClientCertificates::default();
    }
    let anchors = record.client_anchors.iter().map(|anchor| anchor.certificate.clone()).collect();
    ClientCertificates { required: true, anchors }
}

/// Binds a Unix socket with this mode. What a dead process left was removed by [`clear_stale_socket`].
fn bind_unix(path: &Path, access: SocketAccess) -> Result<UnixListener, Fault> {
    let mode = match access {
        SocketAccess::Owner => 0o600,
        SocketAccess::Group => 0o660,
        SocketAccess::Everyone => 0o666,
    };
    // The umask of the process makes it private until the mode is set.
    let bound = UnixListener::bind(path).map_err(|error| listen(path.display(), &error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| listen(path.display(), &error))?;
    Ok(bound)
}

/// Binds the management socket: for the owner only.
///
/// # Errors
/// [`Fault::Listen`].
pub fn bind_management(path: &Path) -> Result<UnixListener, Fault> {
    bind_unix(path, SocketAccess::Owner)
}

/// Removes a socket that a dead process left. Connects to find out, so it must come before the sandbox.
///
/// # Errors
/// [`Fault::Listen`] when somebody answers, or something else than a socket has the name.
pub fn clear_stale_socket(path: &Path) -> Result<(), Fault> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(Fault::Listen {
            address: path.display().to_string(),
            cause: "another process answers there; stop it, or use another path".to_owned(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket(path) => {
            std::fs::remove_file(path).map_err(|error| listen(path.display(), &error))
        }
        Err(error) => Err(listen(path.display(), &error)),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket())
}

pub(crate) fn listen(address: impl std::fmt::Display, error: &std::io::Error) -> Fault {
    Fault::Listen { address: address.to_string(), cause: error.to_string() }
}

/// A fault after which the process ends, in its own words.
pub(crate) fn stopped(fault: &dyn std::fmt::Display) -> Fault {
    Fault::Stopped(fault.to_string())
}

/// The store's fault with the file that it is about.
fn open_fault(folder: &DataFolder, fault: OpenFault) -> Fault {
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
        OpenFault::Storage(StorageFault::Full) => Fault::Disk { file, cause: "no space is left".to_owned() },
        OpenFault::OtherKey => {
            Fault::RootOfTrust { file: folder.seal(), cause, remedy: "Bring back the seal that belongs to this store" }
        }
        OpenFault::NewerFormat { .. } => Fault::Broken { file, cause, remedy: "Use a newer kagimori-hsm" },
        OpenFault::AlreadyFormed(_)
        | OpenFault::NotFormed(_)
        | OpenFault::RolledBack { .. }
        | OpenFault::Storage(_)
        | OpenFault::State(_) => Fault::Broken { file, cause, remedy: RESTORE },
        OpenFault::Engine(_) | OpenFault::Form(_) => Fault::Stopped(cause),
    }
}

fn random<const N: usize>(module: &Module) -> Result<[u8; N], Fault> {
    module.random_bytes().map_err(|fault| stopped(&fault))
}

/// Time since 1970-01-01 UTC, for certificates; everything else takes its time from the log.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Octets as people read them.
pub(crate) fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
