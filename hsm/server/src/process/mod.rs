//! The order in which the process starts, what it does while it runs, and the order in which it stops.
//!
//! Start: data folder and its lock · no core dumps, no debugger · files and ports by Landlock · self-test of the
//! cryptographic module · identity · health port · peer port · store · management socket · doors for clients · system calls
//! by seccomp. Stop: doors · requests under way · store · peer port · management socket. One thread, this one, carries out what must not be done
//! on the threads that report it. `answers` has the management requests, `membership` coming to a
//! cluster and going from it. It must not look into clients' requests.

mod answers;
mod membership;
mod snapshot;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use hsm_core::HsmId;
use hsm_crypto::Module;
use hsm_replication::Standing;
use parking_lot::{Mutex, RwLock};
use tokio::signal::unix::{SignalKind, signal};

use crate::command_line::SocketAccess;
use crate::data_folder::DataFolder;
use crate::dispatch::{Effects, ProcessEffect};
use crate::exit::Fault;
use crate::health::{self, Sources};
use crate::identity::Identity;
use crate::management::ManagementServer;
use crate::member::{self, Found, Member, Surroundings};
use crate::metrics::Metrics;
use crate::peers::{PeerEvent, Peers, PeersParts};
use crate::release::ReleaseStatement;
use crate::sandbox::{self, FileRules, Sandbox};
use crate::settings::{RootOfTrustSetting, Settings};
use crate::{installation, limits, node_watch, unix_socket};

/// Runs an HSM until it is told to stop. The log is running.
///
/// # Errors
/// The [`Fault`] that ended it or kept it from starting.
pub fn serve(settings: Settings) -> Result<(), Fault> {
    // Whatever this process makes is its user's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let folder = DataFolder::take(settings.data_folder())?;
    for socket in settings.unix_socket().map(|(path, _)| path).into_iter().chain([settings.management_socket()]) {
        unix_socket::clear_stale(socket)?;
    }
    installation::prepare(settings.installation())?;
    let release = Arc::new(ReleaseStatement::of_this_program()?);
    say_release(&release);
    let sandbox = lock_up_files(&settings)?;
    let (events, inbox) = channel();
    let module = Module::start().map_err(|failure| Fault::SelfTest(failure.to_string()))?;
    let hsm = hsm_id(&folder, &module)?;
    let identity = Arc::new(Identity::read_or_make(&settings, &folder, &module, HsmId(hsm))?);
    let runtime = start_runtime(&settings, &events)?;
    let peers = start_peers(&settings, &identity, &release, &module, runtime.handle(), &events)?;
    let process = Arc::new(Process {
        surroundings: surroundings(settings, folder, module, identity, release, peers, &events),
        member: RwLock::new(None),
        change: Mutex::new(()),
        sandbox: sandbox.clone(),
        joining: Mutex::default(),
        removed: AtomicBool::new(false),
        departs: AtomicBool::new(false),
        served: Mutex::default(),
        admitted_by: Mutex::default(),
        events,
    });
    let settings = &process.surroundings.settings;
    start_health(&process, runtime.handle())?;
    check_address(settings)?;
    match Member::open(&process.surroundings)? {
        Found::Nothing => {}
        Found::Member(member) => drop(process.adopt(member)?),
        Found::Stateless(stateless) => process.await_state(stateless)?,
    }
    let server = start_management(&process)?;
    if settings.sandbox() {
        sandbox::restrict_system_calls(settings.peers().is_some())?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        hsm = %member::hexadecimal(&hsm),
        management = %settings.management_socket().display(),
        %sandbox,
        "kagimori-hsm is running"
    );
    process.resume_join()?;
    let end = process.run(&inbox);
    process.stop(server);
    runtime.shutdown_timeout(Duration::from_secs(1));
    end
}

/// What must be done by the process's own thread.
enum Event {
    /// Somebody asked to stop.
    Stop(&'static str),
    /// The cluster's certificate or its rule for client certificates changed.
    ReloadTls,
    /// The cluster master key has a new epoch.
    EpochBegan,
    /// Members came, went or moved.
    RosterChanged,
    /// Another HSM had something to say of this one.
    Peer(PeerEvent),
    /// This HSM has left the cluster.
    Left,
    /// This node is something else to its cluster than before.
    Standing(Standing),
    /// This HSM cannot become the member that it is.
    Unable(Fault),
    /// The cluster's keys must go.
    Zeroize,
    /// The node can not go on.
    Fault(hsm_replication::Fault),
}

/// A running process.
struct Process {
    surroundings: Arc<Surroundings>,
    member: RwLock<Option<Arc<Member>>>,
    /// Held by whoever makes or initialises a cluster.
    change: Mutex<()>,
    sandbox: Sandbox,
    /// How far a join is, in words; empty when none is under way.
    joining: Mutex<String>,
    /// Set once this HSM has learnt that it is no member any more.
    removed: AtomicBool,
    /// Set once this HSM is in no roster any more and only votes.
    departs: AtomicBool,
    /// Whether it served clients when that was looked at last.
    served: Mutex<Option<hsm_protocol::wire::ServingState>>,
    /// Set while a member waits for its state: a command by which the roster had it.
    admitted_by: Mutex<Option<u64>>,
    events: Sender<Event>,
}

/// How long a change of the rule for client certificates leaves old connections: the first time lets the answer to the
/// change itself go out, the second catches connections that were being accepted during the change.
const CLOSE_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

impl Process {
    fn member(&self) -> Option<Arc<Member>> {
        self.member.read().clone()
    }

    /// Takes up membership and lets clients in if they may come.
    fn adopt(&self, member: Member) -> Result<Arc<Member>, Fault> {
        let member = Arc::new(member);
        member.open_doors()?;
        *self.member.write() = Some(Arc::clone(&member));
        Ok(member)
    }

    /// Carries out events until one of them ends the process.
    fn run(self: &Arc<Self>, inbox: &Receiver<Event>) -> Result<(), Fault> {
        let mut expire_at = Instant::now() + limits::EXPIRE_INTERVAL;
        let mut announce_at = Instant::now();
        let mut close_at: Vec<Instant> = Vec::new();
        loop {
            let next = close_at.iter().copied().fold(expire_at.min(announce_at), Instant::min);
            match inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Event::Stop(reason)) => {
                    tracing::info!(reason, "stopping");
                    return Ok(());
                }
                Ok(Event::ReloadTls) => {
                    if self.reload_tls()? {
                        close_at.extend(CLOSE_AFTER.map(|after| Instant::now() + after));
                    }
                }
                Ok(Event::EpochBegan) => self.member().iter().for_each(|member| member.look_at_epochs()),
                Ok(Event::RosterChanged | Event::Left) => self.follow_roster()?,
                Ok(Event::Peer(event)) => self.hear(&event)?,
                Ok(Event::Standing(Standing::Removed)) if self.member().is_some() => return Err(self.removed()),
                Ok(Event::Standing(Standing::RolledBack)) => self.rejoin()?,
                Ok(Event::Standing(_)) => {}
                Ok(Event::Unable(fault)) => return Err(fault),
                Ok(Event::Zeroize) => return self.zeroize(),
                Ok(Event::Fault(fault)) => return Err(self.node_fault(&fault)),
                Err(RecvTimeoutError::Timeout) => {}
                // The process itself holds a sender.
                Err(RecvTimeoutError::Disconnected) => unreachable!("the process holds a sender"),
            }
            let now = Instant::now();
            if close_at.iter().any(|&at| at <= now) {
                close_at.retain(|&at| at > now);
                self.member().iter().for_each(|member| member.close_tls_connections());
            }
            if announce_at <= now {
                let departs = self.departs.load(Ordering::Acquire);
                announce_at = now + if departs { limits::DEPARTURE_POLL } else { limits::ANNOUNCE_INTERVAL };
                self.look_round()?;
                self.surroundings.metrics.sample(Instant::now());
            }
            if expire_at <= now {
                expire_at = now + limits::EXPIRE_INTERVAL;
                self.member().iter().for_each(|member| member.expire_sessions());
            }
        }
    }

    fn reload_tls(&self) -> Result<bool, Fault> {
        self.member().map_or(Ok(false), |member| member.open_doors())
    }

    fn zeroize(&self) -> Result<(), Fault> {
        tracing::warn!("the cluster is zeroized: its master key and seal are destroyed and this HSM stops");
        self.member().map_or(Ok(()), |member| member.destroy_seal())
    }

    fn node_fault(&self, fault: &hsm_replication::Fault) -> Fault {
        match fault {
            hsm_replication::Fault::StorageFull => node_watch::disk_full(&self.surroundings.folder),
            other => member::stopped(other),
        }
    }

    fn stop(&self, server: ManagementServer) {
        if let Some(member) = self.member() {
            member.stop();
        }
        if let Some(peers) = &self.surroundings.peers {
            peers.stop();
        }
        drop(server);
        let socket = self.surroundings.settings.management_socket();
        if let Err(error) = std::fs::remove_file(socket) {
            tracing::debug!(%error, "the management socket was gone already");
        }
        tracing::info!("stopped");
    }
}

fn surroundings(
    settings: Settings,
    folder: DataFolder,
    module: Arc<Module>,
    identity: Arc<Identity>,
    release: Arc<ReleaseStatement>,
    peers: Option<Arc<Peers>>,
    events: &Sender<Event>,
) -> Arc<Surroundings> {
    let (for_effects, for_faults, for_standing) = (events.clone(), events.clone(), events.clone());
    let effects = move || {
        let events = for_effects.clone();
        Effects::new(move |effect| {
            let event = match effect {
                ProcessEffect::ReloadTls => Event::ReloadTls,
                ProcessEffect::EpochBegan => Event::EpochBegan,
                ProcessEffect::RosterChanged => Event::RosterChanged,
                ProcessEffect::Zeroize => Event::Zeroize,
            };
            report(&events, event);
        })
    };
    let on_fault = move |fault| report(&for_faults, Event::Fault(fault));
    Arc::new(Surroundings {
        settings,
        folder,
        module,
        metrics: Arc::new(Metrics::new()),
        hsm: identity.hsm().0,
        identity,
        release,
        peers,
        effects: Box::new(effects),
        on_fault: Arc::new(on_fault),
        on_standing: Arc::new(move |standing| report(&for_standing, Event::Standing(standing))),
    })
}

/// Hands an event to the process's thread. When that has ended, the process is ending anyway.
fn report(events: &Sender<Event>, event: Event) {
    if events.send(event).is_err() {
        tracing::debug!("an event came after the end");
    }
}

/// Which program runs, at every start: a development build is none for keys that matter.
fn say_release(release: &ReleaseStatement) {
    let (version, measurement) = (&release.version, member::hexadecimal(&release.measurement));
    let key = member::hexadecimal(&release.key);
    if release.is_development() {
        tracing::warn!(
            version,
            measurement,
            "this is a DEVELOPMENT BUILD: nobody signed it, and a cluster that takes it takes every build. For keys that \
             matter install a signed release (docs/operations/upgrade.md)"
        );
    } else {
        tracing::info!(version, measurement, key, "this is a signed release");
    }
}

/// The first part of the sandbox, before any thread.
fn lock_up_files(settings: &Settings) -> Result<Sandbox, Fault> {
    if !settings.sandbox() {
        tracing::warn!(
            "--no-sandbox: core dumps, debuggers, every file of this user and every system call stay possible. For \
             debugging only; never with keys that matter"
        );
        return Ok(Sandbox::Off);
    }
    let mut sandbox = Sandbox::On { missing: Vec::new() };
    sandbox.add(sandbox::harden_process()?);
    sandbox.add(sandbox::restrict_files(&file_rules(settings))?);
    if let Sandbox::On { missing } = &sandbox {
        missing.iter().for_each(|missing| tracing::warn!(missing, "the sandbox is not complete"));
    }
    Ok(sandbox)
}

fn file_rules(settings: &Settings) -> FileRules {
    // Which boot this is and how long ago it was (the log's clock), and the C library's way to randomness.
    const SYSTEM_FILES: [&str; 3] = ["/proc/sys/kernel/random/boot_id", "/proc/uptime", "/dev/urandom"];
    let mut readable_files: Vec<_> = SYSTEM_FILES.iter().map(|&file| Path::new(file).to_owned()).collect();
    if let RootOfTrustSetting::PassphraseFile(file) = settings.root_of_trust() {
        readable_files.push(file.clone());
    }
    readable_files.retain(|file| file.exists());
    let sockets = settings.unix_socket().map(|(path, _)| path).into_iter().chain([settings.management_socket()]);
    let socket_folders = sockets.filter_map(Path::parent).map(Path::to_owned).collect();
    let peers = settings.peers();
    let listening = [Some(settings.listen()), settings.health(), peers.map(|peers| peers.listen)];
    FileRules {
        owned_folders: vec![settings.data_folder().to_owned(), settings.installation().to_owned()],
        socket_folders,
        readable_files,
        ports: listening.into_iter().flatten().map(|address| address.port()).collect(),
        connect_ports: peers.map(|peers| peers.ports.clone()).unwrap_or_default(),
    }
}

/// This HSM's random name, made at its first start.
fn hsm_id(folder: &DataFolder, module: &Module) -> Result<[u8; 16], Fault> {
    let file = folder.hsm_id();
    if let Some(content) = folder.read(&file)? {
        let number = std::str::from_utf8(&content).ok().map(str::trim_end).filter(|digits| digits.len() == 32);
        let number = number.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        return number.map(u128::to_be_bytes).ok_or(Fault::Broken {
            file,
            cause: "it does not hold 32 hexadecimal digits".to_owned(),
            remedy: "Restore it from a copy of the data folder",
        });
    }
    let id = module.random_bytes().map_err(|fault| member::stopped(&fault))?;
    folder.write(&file, format!("{}\n", member::hexadecimal(&id)).as_bytes())?;
    Ok(id)
}

/// Says at the start, and not at initialisation, that somebody else has the clients' address.
fn check_address(settings: &Settings) -> Result<(), Fault> {
    TcpListener::bind(settings.listen()).map(drop).map_err(|error| unix_socket::listen(settings.listen(), &error))
}

/// The runtime of health port, signals and other HSMs. Clients' requests never run on it. With peers it has two threads, so
/// that one may wait for the disk while the other answers heartbeats.
fn start_runtime(settings: &Settings, events: &Sender<Event>) -> Result<tokio::runtime::Runtime, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(if settings.peers().is_some() { 2 } else { 1 })
        .thread_name("network")
        .enable_all()
        .build()
        .map_err(|error| member::stopped(&error))?;
    let entered = runtime.enter();
    let of = |kind| signal(kind).map_err(|error| member::stopped(&error));
    let (mut terminate, mut interrupt) = (of(SignalKind::terminate())?, of(SignalKind::interrupt())?);
    let mut hangup = of(SignalKind::hangup())?;
    drop(entered);
    let events = events.clone();
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => report(&events, Event::Stop("SIGTERM")),
                _ = interrupt.recv() => report(&events, Event::Stop("SIGINT")),
                _ = hangup.recv() => tracing::info!("SIGHUP: nothing to load again; changes come through the log"),
            }
        }
    });
    Ok(runtime)
}

fn start_peers(
    settings: &Settings,
    identity: &Arc<Identity>,
    release: &Arc<ReleaseStatement>,
    module: &Arc<Module>,
    runtime: &tokio::runtime::Handle,
    events: &Sender<Event>,
) -> Result<Option<Arc<Peers>>, Fault> {
    let Some(peers) = settings.peers() else { return Ok(None) };
    let events = events.clone();
    let parts = PeersParts {
        settings: peers.clone(),
        identity: Arc::clone(identity),
        release: Arc::clone(release),
        module: Arc::clone(module),
        runtime: runtime.clone(),
        tell: Arc::new(move |event| report(&events, Event::Peer(event))),
    };
    Peers::start(parts).map(Some)
}

fn start_health(process: &Arc<Process>, runtime: &tokio::runtime::Handle) -> Result<(), Fault> {
    let Some(address) = process.surroundings.settings.health() else { return Ok(()) };
    let listener = TcpListener::bind(address).map_err(|error| unix_socket::listen(address, &error))?;
    let bound = listener.local_addr().map_err(|error| unix_socket::listen(address, &error))?;
    let of = Arc::clone(process);
    let sources =
        Sources { metrics: Arc::clone(&process.surroundings.metrics), snapshot: Arc::new(move || of.snapshot()) };
    health::start(runtime, listener, sources).map_err(|error| unix_socket::listen(address, &error))?;
    tracing::info!(address = %bound, "health and metrics");
    Ok(())
}

fn start_management(process: &Arc<Process>) -> Result<ManagementServer, Fault> {
    let socket = process.surroundings.settings.management_socket();
    let listener = unix_socket::bind(socket, SocketAccess::Owner)?;
    let of = Arc::clone(process);
    ManagementServer::start(listener, Arc::new(move |request| of.answer(request)))
        .map_err(|error| unix_socket::listen(socket.display(), &error))
}
