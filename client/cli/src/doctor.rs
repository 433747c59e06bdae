//! `doctor`: from the configuration to a login, one line for each thing that must be right.
//!
//! It stops at the first thing that is wrong, because everything after it would fail for the same reason.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use hsm_client::{Cluster, ClusterConfiguration};
use hsm_protocol::Lifecycle;
use serde_json::json;

use crate::command_line::{Common, Output};
use crate::credentials::Session;
use crate::failure::Failure;

/// How long a connection attempt may take here. A person waits.
const PATIENCE: Duration = Duration::from_secs(3);

struct Line {
    what: String,
    found: Result<String, Failure>,
}

/// Examines and prints; fails when something is wrong.
pub(crate) fn run(common: &Common) -> ExitCode {
    let mut lines = Vec::new();
    let finding = examine(common, &mut lines);
    let healthy = finding.is_some() && lines.iter().all(|line| line.found.is_ok());
    match common.output {
        Output::Text => lines.iter().for_each(print),
        Output::Json => {
            let checks: Vec<_> = lines.iter().map(as_json).collect();
            println!("{}", json!({ "error_code": u8::from(!healthy), "data": { "checks": checks } }));
        }
    }
    if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(line: &Line) {
    match &line.found {
        Ok(detail) => println!("ok      {}: {detail}", line.what),
        Err(failure) => {
            println!("failed  {}: {}", line.what, failure.cause());
            println!("        at fault: {}", failure.party());
            println!("        next: {}", failure.next());
        }
    }
}

fn as_json(line: &Line) -> serde_json::Value {
    match &line.found {
        Ok(detail) => json!({ "check": line.what, "ok": true, "detail": detail }),
        Err(failure) => json!({
            "check": line.what, "ok": false, "cause": failure.cause(), "party": failure.party(), "next": failure.next(),
        }),
    }
}

/// `None` when something stopped the examination.
fn examine(common: &Common, lines: &mut Vec<Line>) -> Option<()> {
    let mut check = |what: &str, found: Result<String, Failure>| {
        let passed = found.is_ok().then_some(());
        lines.push(Line { what: what.to_owned(), found });
        passed
    };
    let configuration = match crate::load(common.config.as_deref()) {
        Ok(configuration) => {
            check("configuration", Ok(configuration.file.display().to_string()));
            configuration
        }
        Err(failure) => {
            check("configuration", Err(failure));
            return None;
        }
    };
    let chosen = match crate::choose(&configuration, common.cluster.as_deref()) {
        Ok(chosen) => chosen,
        Err(failure) => {
            check("cluster", Err(failure));
            return None;
        }
    };
    let cluster = Cluster::new(chosen.clone());
    check("certificate files", cluster.check_files().map(|()| "readable".to_owned()).map_err(Failure::from))?;
    check("network", reach(chosen))?;
    let hello = cluster.hello_within(PATIENCE);
    check(
        "TLS and certificates",
        hello.as_ref().map(|_| "the HSM proved itself".to_owned()).map_err(|error| error.clone().into()),
    )?;
    let hello = hello.ok()?;
    let lifecycle = Lifecycle::from_number(hello.lifecycle);
    check("cluster", serves(lifecycle).map(|()| format!("{:?}, in service, {}", hello.label, mode(hello.fips))))?;
    let session = Session::new(&cluster, common);
    let login = session.perhaps_logged_in(|login| Ok(login.is_some()));
    check("login", login.map(|tried| if tried { "user name and password are right".to_owned() } else { skipped() }))
}

fn skipped() -> String {
    "not tried: set KAGIMORI_ROLE and KAGIMORI_PIN, or use --as and --as-role".to_owned()
}

fn mode(fips: bool) -> &'static str {
    if fips { "FIPS" } else { "NON_FIPS" }
}

fn serves(lifecycle: Option<Lifecycle>) -> Result<(), Failure> {
    let (cause, next) = match lifecycle {
        Some(Lifecycle::Active) => return Ok(()),
        Some(Lifecycle::Initialized) => ("the cluster is not activated", "run `kagimori cluster activate`"),
        Some(Lifecycle::Uninitialized) => ("the cluster is not initialised", "run `kagimori-hsm manage initialize`"),
        Some(Lifecycle::Zeroized) => ("the cluster's keys were destroyed", "restore a backup, or make a new cluster"),
        None => ("the cluster is in a state that this version does not know", "update this program"),
    };
    Err(Failure::misuse(cause, next))
}

/// Whether anything listens at one of the addresses.
fn reach(configuration: &ClusterConfiguration) -> Result<String, Failure> {
    if let Some(path) = &configuration.unix_socket
        && std::os::unix::net::UnixStream::connect(path).is_ok()
    {
        return Ok(format!("{} answers", path.display()));
    }
    let mut causes = Vec::new();
    for address in &configuration.addresses {
        match connect(address) {
            Ok(()) => return Ok(format!("{address} answers")),
            Err(error) => causes.push(format!("{address}: {error}")),
        }
    }
    let cause = format!("no HSM answers ({})", causes.join("; "));
    Err(Failure::misuse(
        cause,
        "see that kagimori-hsm runs, that `addresses` in client.toml is right, and that no firewall is between",
    ))
}

fn connect(address: &str) -> std::io::Result<()> {
    let mut last = std::io::Error::other("the name has no address");
    for found in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&found, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
