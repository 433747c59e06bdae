//! Several HSMs of one installation: where each listens, how they come together, and all of them at once.
//!
//! The first HSM forms the cluster and goes through the ceremony; the others join it over its peer address. Each stands in
//! a zone of its own and has a loopback address of its own, so that ports are the usual ones.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::files::write_private;
use super::process::PEER_PORT;
use super::{Installation, Running, Stage};
use crate::narrate;
use crate::workspace::capture;

/// How long a join may take: the state comes as a snapshot.
const JOIN_PATIENCE: Duration = Duration::from_secs(120);

/// Zones that the HSMs are spread over.
const ZONES: usize = 3;

/// Ports that are tried for the HSMs' own conversation when the usual one is taken.
const OTHER_PORTS: std::ops::Range<u16> = 22_240..22_340;

impl Installation {
    /// How many HSMs it has.
    pub(crate) fn size(&self) -> usize {
        self.wishes.hsms.max(1)
    }

    /// The same installation, speaking of another of its HSMs.
    pub(crate) fn hsm_number(&self, number: usize) -> Self {
        Self { folder: self.folder.clone(), programs: self.programs.clone(), wishes: self.wishes.clone(), number }
    }

    /// One view for each HSM.
    pub(crate) fn hsms(&self) -> Vec<Self> {
        (1..=self.size()).map(|number| self.hsm_number(number)).collect()
    }

    /// How steps name it.
    pub(crate) fn name(&self) -> String {
        if self.size() == 1 { "the HSM".to_owned() } else { format!("HSM {} ({})", self.number, self.zone()) }
    }

    /// Which of the HSMs it speaks of, from 1.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Its zone.
    pub(crate) fn zone(&self) -> String {
        let letters = ["a", "b", "c"];
        format!("zone-{}", letters[(self.number - 1) % ZONES])
    }

    /// Loopback address that it has for itself where there are several.
    pub(super) fn host(&self) -> Ipv4Addr {
        if let Some(network) = &self.wishes.network {
            return network.address(self.number);
        }
        match u8::try_from(self.number) {
            Ok(number) if self.size() > 1 => Ipv4Addr::new(127, 0, number, 1),
            _ => Ipv4Addr::LOCALHOST,
        }
    }

    /// What certifies the HSMs of this installation as such.
    pub(super) fn card(&self) -> PathBuf {
        self.folder().join("card")
    }

    /// Where it listens for other HSMs; `None` when there are none. All use one port, chosen once.
    pub(crate) fn peer_address(&self) -> Result<Option<SocketAddr>> {
        if self.size() == 1 {
            return Ok(None);
        }
        if self.wishes.network.is_some() {
            return Ok(Some(SocketAddr::from((self.host(), PEER_PORT))));
        }
        let file = self.folder().join("peer-port");
        let port = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().with_context(|| format!("{} holds no port", file.display()))?,
            Err(_) => {
                let hosts: Vec<Ipv4Addr> = self.hsms().iter().map(Self::host).collect();
                let is_free = |port: &u16| hosts.iter().all(|&host| TcpListener::bind((host, *port)).is_ok());
                let port = std::iter::once(PEER_PORT).chain(OTHER_PORTS).find(is_free).context("no free port")?;
                write_private(&file, &port.to_string())?;
                port
            }
        };
        Ok(Some(SocketAddr::from((self.host(), port))))
    }

    /// The addresses of all HSMs that have one, as `client.toml` wants them.
    pub(super) fn client_addresses(&self) -> Result<String> {
        let known: Vec<String> = self
            .hsms()
            .iter()
            .filter_map(|hsm| hsm.addresses().ok())
            .map(|addresses| format!("\"{}\"", addresses.clients))
            .collect();
        if known.is_empty() { bail!("no HSM has an address yet") } else { Ok(known.join(", ")) }
    }

    /// Starts every HSM that is a member already, or the first one: what is needed before anything can be decided.
    pub(crate) fn start_members(&self) -> Result<Vec<Running>> {
        self.keep_size()?;
        let hsms = self.hsms();
        let members = hsms.iter().filter(|hsm| hsm.number == 1 || hsm.joined_file().is_file());
        members.map(|hsm| hsm.running().map_or_else(|| hsm.start(), Ok)).collect()
    }

    /// Starts the others and has them join; waits until each is in service.
    pub(crate) fn grow(&self) -> Result<Vec<Running>> {
        self.grow_to(self.size())
    }

    /// The same for as many of them as the cluster shall have now.
    pub(crate) fn grow_to(&self, size: usize) -> Result<Vec<Running>> {
        let mut running = Vec::new();
        let first = self.peer_address()?;
        let wanted = |hsm: &Self| (2..=size).contains(&hsm.number) && !hsm.joined_file().is_file();
        for hsm in self.hsms().into_iter().filter(wanted) {
            hsm.make_folders()?;
            running.push(hsm.running().map_or_else(|| hsm.start(), Ok)?);
            let first = first.context("an HSM that joins needs the address of another")?;
            let step = narrate::begin(format!("{} joins the cluster", hsm.name()));
            if hsm.status()?.stage == Stage::Blank {
                hsm.join(first)?;
            }
            hsm.wait_until(Stage::Active, JOIN_PATIENCE)?;
            write_private(&hsm.joined_file(), "")?;
            step.done("it has the state and the keys of the others");
        }
        if !running.is_empty() {
            self.write_client_files()?;
            self.wait_for_voters(size)?;
        }
        Ok(running)
    }

    /// Has it join the cluster that the HSM at this address is a member of.
    pub(crate) fn join(&self, member: SocketAddr) -> Result<()> {
        capture(self.manage().args(["join", "--member", &member.to_string()])).map(drop)
    }

    /// Has it leave its cluster: it destroys its keys and ends.
    pub(crate) fn leave(&self) -> Result<()> {
        capture(self.manage().arg("leave")).map(drop)
    }

    /// Waits until so many HSMs vote as a cluster of this size has: from then on it outlives the loss of one.
    fn wait_for_voters(&self, size: usize) -> Result<()> {
        let wanted = match size {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        let began = Instant::now();
        while self.status()?.voters < wanted {
            if began.elapsed() > JOIN_PATIENCE {
                bail!(
                    "fewer than {wanted} HSMs vote after {JOIN_PATIENCE:?}; look at the log {}",
                    self.log().display()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the HSM has come to this stage.
    pub(crate) fn wait_until(&self, stage: Stage, at_most: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let now = self.status()?.stage;
            if now == stage {
                return Ok(());
            }
            if began.elapsed() > at_most {
                bail!(
                    "{} is {now:?} after {at_most:?} and not {stage:?}; look at its log {}",
                    self.name(),
                    self.log().display()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Written once the HSM is a member.
    fn joined_file(&self) -> PathBuf {
        self.hsm().join("joined")
    }

    /// The number of HSMs is chosen when the first one starts: addresses and certificates depend on it.
    fn keep_size(&self) -> Result<()> {
        let file = self.folder().join("hsms");
        match std::fs::read_to_string(&file) {
            Ok(text) if text.trim() == self.size().to_string() => Ok(()),
            Ok(text) => bail!(
                "the cluster in {} was made of {} HSMs, and {} were asked for; run it as it is, or stop it and move the \
                 folder away to begin anew",
                self.folder().display(),
                text.trim(),
                self.size()
            ),
            Err(_) => write_private(&file, &self.size().to_string()),
        }
    }

    /// How many HSMs an installation in this folder has, if there is one.
    pub(crate) fn known_size(&self) -> Option<usize> {
        let known = std::fs::read_to_string(self.folder().join("hsms")).ok()?;
        known.trim().parse().ok()
    }
}
