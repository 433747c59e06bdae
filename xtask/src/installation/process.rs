//! The process `kagimori-hsm` of an installation: its addresses, its start, its end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Installation;
use crate::narrate;
use crate::workspace::capture;

/// Ports that an installation takes when they are free: AWS CloudHSM's, and ours for other HSMs and for health.
const CLIENT_PORT: u16 = 2223;
pub(super) const PEER_PORT: u16 = 2224;
const HEALTH_PORT: u16 = 9223;

/// How long an HSM may take to start (self-tests, opening the store) or to stop (flushing, connections ending).
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest path of a Unix socket: `sun_path` in unix(7), less its end.
const SOCKET_PATH_BYTES: usize = 107;

/// Where an HSM listens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) clients: SocketAddr,
    pub(crate) health: SocketAddr,
    /// For the other HSMs, where there are any.
    pub(crate) peers: Option<SocketAddr>,
}

/// An HSM that runs.
pub(crate) struct Running {
    /// Set when it is a child of this process.
    child: Option<Child>,
    process: u32,
}

impl Running {
    /// Its process id.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// Sends it a signal by its name.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        capture(Command::new("kill").args(["-s", name, &self.process.to_string()])).map(drop)
    }

    /// Waits until it has ended by itself. Only for a child.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait().context("the HSM's end cannot be read")?.is_some()),
            None => Ok(!lives(self.process)),
        }
    }

    /// Waits for the end of a child that was told to end by other means.
    pub(crate) fn wait(mut self) -> Result<()> {
        self.child.as_mut().context("only an HSM that was started here can be waited for")?.wait()?;
        Ok(())
    }

    /// Ends it at once, as a power cut would, and reaps it.
    pub(crate) fn kill(mut self) -> Result<()> {
        let child = self.child.as_mut().context("only an HSM that was started here can be killed here")?;
        child.kill().context("the HSM cannot be killed")?;
        child.wait().context("the killed HSM cannot be waited for")?;
        Ok(())
    }
}

/// An HSM that outlives whoever started it must not hold the caller's pipes and locks: `sh` closes what may be inherited.
const LET_GO: &str = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";

impl Installation {
    /// The management socket: in the HSM's folder, or in the folder for temporary files when that path is too long.
    pub(super) fn management_socket(&self) -> PathBuf {
        let near = self.hsm().join("management.sock");
        if near.as_os_str().len() <= SOCKET_PATH_BYTES {
            return near;
        }
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        self.hsm().hash(&mut hasher);
        std::env::temp_dir().join(format!("kagimori-{:016x}.sock", hasher.finish()))
    }

    /// The HSM of this installation, when it runs and answers.
    pub(crate) fn running(&self) -> Option<Running> {
        let text = std::fs::read_to_string(self.process_file()).ok()?;
        let process = text.trim().parse().ok()?;
        (is_ours(process) && self.status().is_ok()).then_some(Running { child: None, process })
    }

    /// Starts the HSM and says so.
    pub(crate) fn start(&self) -> Result<Running> {
        let step = narrate::begin(format!("start {}", self.name()));
        let running = self.start_quietly()?;
        let Addresses { clients, health, .. } = self.addresses()?;
        step.done(format!("process {}, clients {clients}, health {health}", running.process));
        Ok(running)
    }

    /// Starts the HSM, in a process group of its own, and waits until it answers.
    pub(crate) fn start_quietly(&self) -> Result<Running> {
        let addresses = self.choose_addresses()?;
        let mut child = self.serve(addresses)?.spawn().context("kagimori-hsm cannot be started")?;
        super::files::write_private(&self.process_file(), &child.id().to_string())?;
        self.wait_for_answer(&mut child)?;
        Ok(Running { process: child.id(), child: Some(child) })
    }

    fn wait_for_answer(&self, child: &mut Child) -> Result<()> {
        let began = Instant::now();
        while self.status().is_err() {
            if let Some(status) = child.try_wait()? {
                let (log, end) = (self.log(), self.end_of_log());
                bail!("the HSM ended while it started ({status}); its log {} says why:\n{end}", log.display());
            }
            if began.elapsed() > PATIENCE {
                bail!("the HSM does not answer after {PATIENCE:?}; look at its log {}", self.log().display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The command that runs the HSM, its output going to the log.
    pub(crate) fn serve(&self, addresses: Addresses) -> Result<Command> {
        let program = self.programs.join("kagimori-hsm");
        let mut command = self.at_host("sh");
        let cores = if self.wishes.cores { "ulimit -c unlimited; " } else { "" };
        command.arg("-c").arg(format!("{cores}{LET_GO}; exec \"$0\" \"$@\"")).arg(program);
        command.arg("serve").arg("--data-dir").arg(self.data()).arg("--listen").arg(addresses.clients.to_string());
        command.arg("--management-socket").arg(self.management_socket());
        command.arg("--health").arg(addresses.health.to_string());
        if let Some(peers) = addresses.peers {
            command.arg("--peer-listen").arg(peers.to_string()).arg("--zone").arg(self.zone());
            command.arg("--installation").arg(self.card());
        }
        if self.wishes.client_sockets {
            command.arg("--unix-socket").arg(self.client_socket());
        }
        if let Some(filter) = self.wishes.log {
            command.args(["--log", filter]);
        }
        let log =
            std::fs::File::options().create(true).append(true).open(self.log()).context("no log can be written")?;
        command.current_dir(self.hsm()).process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Asks the HSM to stop and waits until it has.
    pub(crate) fn stop(&self, mut running: Running) -> Result<()> {
        let step = narrate::begin(format!("stop {}", self.name()));
        capture(self.manage().arg("stop"))?;
        let began = Instant::now();
        while !running.has_ended()? {
            if began.elapsed() > PATIENCE {
                bail!("the HSM (process {}) has not stopped after {PATIENCE:?}; look at its log", running.process);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::remove_file(self.process_file()).context("the file of the process id cannot be removed")?;
        step.done("");
        Ok(())
    }

    /// The HSM's data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.hsm().join("data")
    }

    /// Where it serves clients of its host, if that was wished for.
    pub(crate) fn client_socket(&self) -> PathBuf {
        self.hsm().join("clients.sock")
    }

    /// The HSM's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.hsm().join("log")
    }

    /// Octets of the log now.
    pub(crate) fn log_length(&self) -> usize {
        std::fs::metadata(self.log()).map_or(0, |log| usize::try_from(log.len()).unwrap_or(usize::MAX))
    }

    /// What it has logged since its log was so long.
    pub(crate) fn log_since(&self, length: usize) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(log.get(length..).unwrap_or_default()).into_owned()
    }

    /// Whether this HSM is that process.
    pub(crate) fn runs_as(&self, process: u32) -> bool {
        std::fs::read_to_string(self.process_file()).is_ok_and(|text| text.trim() == process.to_string())
    }

    /// Signatures that it has done since it started, as its metrics tell.
    pub(crate) fn operations(&self) -> Result<u64> {
        const LINE: &str = "kagimori_request_seconds_count{operation=\"sign\"} ";
        let metrics = self.metrics()?;
        let count = metrics.lines().find_map(|line| line.strip_prefix(LINE));
        count.map_or(Ok(0), |count| count.trim().parse().context("the metrics hold no number"))
    }

    /// The page of metrics.
    pub(crate) fn metrics(&self) -> Result<String> {
        use std::io::{Read as _, Write as _};
        let address = self.addresses()?.health;
        let mut stream = std::net::TcpStream::connect(address).context("the HSM's health port does not answer")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page).context("the HSM's metrics cannot be read")?;
        Ok(page)
    }

    fn process_file(&self) -> PathBuf {
        self.hsm().join("process")
    }

    fn end_of_log(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].iter().map(|line| format!("  | {line}\n")).collect()
    }

    /// Where the HSM listens, or did when it ran last.
    pub(crate) fn addresses(&self) -> Result<Addresses> {
        let path = self.hsm().join("addresses");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let mut lines = text.lines().map(str::parse::<SocketAddr>);
        match (lines.next(), lines.next(), lines.next().transpose()) {
            (Some(Ok(clients)), Some(Ok(health)), Ok(peers)) => Ok(Addresses { clients, health, peers }),
            _ => bail!("{} does not hold two or three addresses; remove it and start again", path.display()),
        }
    }

    /// The addresses of last time when they are free, else the usual ones, else any.
    fn choose_addresses(&self) -> Result<Addresses> {
        let last = self.addresses().ok();
        let host = self.host();
        let (clients, health) = if self.wishes.network.is_some() {
            // The HSM has a host for itself, whose ports cannot be tried from here.
            (SocketAddr::from((host, CLIENT_PORT)), SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT)))
        } else {
            let clients = free(host, last.map_or(CLIENT_PORT, |last| last.clients.port()))?;
            (clients, free(Ipv4Addr::LOCALHOST, last.map_or(HEALTH_PORT, |last| last.health.port()))?)
        };
        let peers = self.peer_address()?;
        let third = peers.map_or_else(String::new, |peers| format!("{peers}\n"));
        let text = format!("{clients}\n{health}\n{third}");
        std::fs::write(self.hsm().join("addresses"), text).context("the HSM's addresses cannot be written down")?;
        Ok(Addresses { clients, health, peers })
    }
}

/// Two addresses that nobody uses, for a second HSM.
pub(crate) fn other_addresses() -> Result<Addresses> {
    Ok(Addresses { clients: free(Ipv4Addr::LOCALHOST, 0)?, health: free(Ipv4Addr::LOCALHOST, 0)?, peers: None })
}

/// A free loopback address: with this port, or else one that the system chooses.
fn free(host: Ipv4Addr, port: u16) -> Result<SocketAddr> {
    let bound = |port| TcpListener::bind((host, port)).and_then(|listener| listener.local_addr());
    bound(port).or_else(|_| bound(0)).context("no free port on the loopback interface")
}

/// Whether a process lives and is not a zombie.
fn lives(process: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    // The state follows the name in parentheses, which may itself hold any character.
    text.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// Whether a process id still belongs to an HSM and was not given to another program.
fn is_ours(process: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    lives(process) && name.trim_end() == "kagimori-hsm"
}
