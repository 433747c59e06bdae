//! Namespaces of the network as hosts: each HSM in one of its own, the clients in another, all at one switch.
//!
//! Made and removed by `ip`, cut by `nft` inside a namespace; the machine's own network is not touched. Needs root.

use std::net::Ipv4Addr;
use std::process::Command;

use std::ffi::OsStr;

use anyhow::{Context, Result};

use super::Installation;
use crate::workspace::{capture, output};

/// How the name of each namespace begins; the id of the process that made it follows.
const PREFIX: &str = "kagimori-";

/// Of the clients among the hosts.
const CLIENTS: usize = 0;

/// What a host hears and says, or what it does not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// Hosts that are namespaces. Removed by [`Network::remove`].
#[derive(Clone)]
pub(crate) struct Network {
    /// Begins the name of each namespace.
    name: String,
    hosts: usize,
}

impl Network {
    /// Makes a switch with so many hosts for HSMs, and one for clients.
    pub(crate) fn make(hosts: usize) -> Result<Self> {
        let network = Self { name: format!("{PREFIX}{}", std::process::id()), hosts };
        network.build().inspect_err(|_| network.remove())?;
        Ok(network)
    }

    fn build(&self) -> Result<()> {
        let switch = self.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        for number in CLIENTS..=self.hosts {
            let (host, port) = (self.host(number), format!("port-{number}"));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &host, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &switch])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"])?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", self.address(number)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// Removes it. What cannot be removed is said and left.
    pub(crate) fn remove(&self) {
        (CLIENTS..=self.hosts).map(|number| self.host(number)).chain([self.switch()]).for_each(|name| remove(&name));
    }

    /// Address of a host, from any other one.
    pub(crate) fn address(&self, number: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 43, 0, u8::try_from(number + 1).unwrap_or(u8::MAX))
    }

    /// The host hears nothing of these others, or nothing of it reaches them.
    pub(crate) fn cut(&self, host: usize, direction: Direction, others: &[usize]) -> Result<()> {
        let (hook, side) = match direction {
            Direction::In => ("input", "saddr"),
            Direction::Out => ("output", "daddr"),
        };
        let chain = format!("{{ type filter hook {hook} priority 0 ; }}");
        self.nft(host, &["add", "table", "inet", "chaos"])?;
        self.nft(host, &["add", "chain", "inet", "chaos", hook, &chain])?;
        for &other in others {
            let address = self.address(other).to_string();
            self.nft(host, &["add", "rule", "inet", "chaos", hook, "ip", side, &address, "drop"])?;
        }
        Ok(())
    }

    /// Ends what was cut at this host.
    pub(crate) fn heal(&self, host: usize) -> Result<()> {
        self.nft(host, &["delete", "table", "inet", "chaos"])
    }

    fn nft(&self, host: usize, words: &[&str]) -> Result<()> {
        let mut command = Command::new("ip");
        capture(command.args(["netns", "exec", &self.host(host), "nft"]).args(words)).map(drop)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn host(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// A program on a host. `ip netns exec` becomes the program, so its process id is the program's.
    fn at(&self, number: usize, program: &OsStr) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(number)]).arg(program);
        command
    }
}

impl Installation {
    /// A program where this HSM is.
    pub(super) fn at_host(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.wishes.network {
            Some(network) => network.at(self.number, program.as_ref()),
            None => Command::new(program),
        }
    }

    /// A program where clients are.
    pub(crate) fn at_client(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.wishes.network {
            Some(network) => network.at(CLIENTS, program.as_ref()),
            None => Command::new(program),
        }
    }
}

/// Processes that have made namespaces which are there.
pub(crate) fn owners() -> Vec<u32> {
    names().iter().filter_map(|name| owner(name)).collect()
}

/// Removes the namespaces that a process has made. What cannot be removed is said and left.
pub(crate) fn remove_of(process: u32) {
    names().iter().filter(|name| owner(name) == Some(process)).for_each(|name| remove(name));
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Namespaces of this machine; none where they cannot be listed.
fn names() -> Vec<String> {
    let listed = capture(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn remove(name: &str) {
    if let Err(error) = ip(&["netns", "del", name]) {
        eprintln!("  the namespace {name} could not be removed: {error:#}");
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    let said = output(command.args(words))?;
    if said.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    Err(anyhow::anyhow!(text)).with_context(|| format!("`ip {}` failed", words.join(" ")))
}
