//! `kagimori-hsm manage`: asks or tells a running HSM through its management socket, and shows the answer.
//!
//! It must not touch the HSM's files: everything goes through the socket.

use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use hsm_protocol::limits::CERTIFICATE_BYTES;
use hsm_protocol::management::{
    Certificates, CertificatesReply, Form, Initialize, Join, Leave, Member, Recover, Recovery, Reply, Request, Status,
    StatusReply, Stop, reply, request,
};
use hsm_protocol::{ErrorCode, Lifecycle};

use crate::command_line::{ManageArguments, ManageCommand, Output};
use crate::exit::Fault;
use crate::limits;
use crate::management::codec::{self, CodecFault};

/// Does what the command line says. What it prints goes to `out`.
///
/// # Errors
/// [`Fault::Settings`], [`Fault::Unreachable`], [`Fault::Refused`] or [`Fault::File`].
pub fn run(arguments: &ManageArguments, out: &mut dyn Write) -> Result<(), Fault> {
    let connection = Connection::open(socket(arguments)?)?;
    let shown = match &arguments.command {
        ManageCommand::Status => status(connection)?,
        ManageCommand::Form { label, fips } => form(connection, label, *fips)?,
        ManageCommand::Certificates { out_dir } => certificates(connection, out_dir)?,
        ManageCommand::Initialize { certificate, trust_anchor } => initialize(connection, certificate, trust_anchor)?,
        ManageCommand::Join { members } => join(connection, members)?,
        ManageCommand::Leave => leave(connection)?,
        ManageCommand::Recover { yes } => recover(connection, *yes)?,
        ManageCommand::Stop => stop(connection)?,
    };
    let printed = match arguments.output {
        Output::Text => writeln!(out, "{}", shown.text),
        Output::Json => writeln!(out, "{}", shown.json),
    };
    printed.map_err(|error| Fault::File { file: PathBuf::from("standard output"), cause: error.to_string() })
}

/// The socket to ask through. The parser cannot demand it: an option for all subcommands must be optional to it.
fn socket(arguments: &ManageArguments) -> Result<&Path, Fault> {
    arguments.socket.as_deref().ok_or_else(|| {
        Fault::Settings(
            "which HSM? Name its management socket by --socket PATH or KAGIMORI_HSM_MANAGEMENT_SOCKET; `serve` makes \
             it as management.sock in the data folder unless told otherwise"
                .to_owned(),
        )
    })
}

/// The same answer in two forms.
struct Shown {
    text: String,
    json: serde_json::Value,
}

struct Connection {
    stream: UnixStream,
    socket: PathBuf,
}

impl Connection {
    fn open(socket: &Path) -> Result<Self, Fault> {
        let stream = UnixStream::connect(socket)
            .map_err(|error| Fault::Unreachable { socket: socket.to_owned(), cause: error.to_string() })?;
        Ok(Self { stream, socket: socket.to_owned() })
    }

    fn unreachable(&self, cause: impl ToString) -> Fault {
        Fault::Unreachable { socket: self.socket.clone(), cause: cause.to_string() }
    }

    fn ask(&mut self, body: request::Body) -> Result<reply::Body, Fault> {
        let request = Request { body: Some(body) };
        let sent = codec::send(&mut self.stream, &request, limits::MANAGEMENT_TIME);
        // The HSM may have said no and closed before it read anything: its answer says more than the broken pipe.
        let received = codec::receive::<Reply>(&mut self.stream, limits::MANAGE_ANSWER_TIME);
        let reply = match (sent, received) {
            (_, Ok(reply)) => reply,
            (Err(fault), _) | (Ok(()), Err(fault)) => return Err(self.unreachable(fault)),
        };
        match reply.body {
            Some(reply::Body::Failure(failure)) => Err(Fault::Refused { code: failure.code, message: failure.message }),
            Some(body) => Ok(body),
            None => Err(self.unreachable("an answer without content; is the HSM of a newer version?")),
        }
    }

    fn status(&mut self) -> Result<StatusReply, Fault> {
        match self.ask(request::Body::Status(Status {}))? {
            reply::Body::Status(status) => Ok(status),
            _ => Err(self.unexpected()),
        }
    }

    fn done(&mut self, body: request::Body) -> Result<(), Fault> {
        match self.ask(body)? {
            reply::Body::Done(_) => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// Asks what a recovery would be, or with the cluster's name has it done.
    fn recovery(&mut self, cluster: &str) -> Result<Recovery, Fault> {
        match self.ask(request::Body::Recover(Recover { cluster: cluster.to_owned() }))? {
            reply::Body::Recovery(recovery) => Ok(recovery),
            _ => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> Fault {
        self.unreachable("an answer to something else; is the HSM of another version?")
    }
}

fn status(mut connection: Connection) -> Result<Shown, Fault> {
    Ok(show_status(&connection.status()?))
}

fn show_status(status: &StatusReply) -> Shown {
    let lifecycle = match Lifecycle::from_number(status.lifecycle) {
        None => "none",
        Some(Lifecycle::Uninitialized) => "uninitialized",
        Some(Lifecycle::Initialized) => "initialized",
        Some(Lifecycle::Active) => "active",
        Some(Lifecycle::Zeroized) => "zeroized",
    };
    let mode = if status.fips { "FIPS" } else { "NON_FIPS" };
    let mut lines =
        vec![format!("{:<22}{}", "version", status.version), format!("{:<22}{}", "process", status.process)];
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{name:<22}{value}"));
        }
    };
    line("sandbox", &status.sandbox);
    line("lifecycle", lifecycle);
    line("joining", &status.joining);
    if status.lifecycle != 0 {
        line("cluster", &status.cluster);
        line("hsm", &status.hsm);
        line("label", &status.label);
        line("mode", mode);
        line("applied index", &status.applied_index.to_string());
        line(
            "epoch",
            &if status.epoch_progress.is_empty() { status.epoch.to_string() } else { status.epoch_progress.clone() },
        );
        line("objects", &status.objects.to_string());
        line("users", &status.users.to_string());
        line("sessions", &status.sessions.to_string());
        line(
            "clients",
            match (status.witness, status.client_address.as_str()) {
                (true, _) => "none: this is a witness",
                (false, "") => "not yet: initialise first",
                (false, address) => address,
            },
        );
        line("client socket", &status.client_socket);
        line("client certificates", if status.client_certificates_required { "required" } else { "not required" });
        line("activation password", &status.activation_password);
    }
    lines.extend(status.members.iter().map(show_member));
    let json = serde_json::json!({
        "members": status.members.iter().map(member_json).collect::<Vec<_>>(),
        "version": status.version, "process": status.process, "sandbox": status.sandbox, "lifecycle": lifecycle,
        "cluster": status.cluster, "incarnation": status.incarnation, "commands_version": status.commands_version, "hsm": status.hsm, "joining": status.joining, "witness": status.witness, "label": status.label, "mode": mode,
        "epoch": status.epoch, "epoch_progress": status.epoch_progress,
        "holds_epoch_before": status.holds_epoch_before, "applied_index": status.applied_index, "objects": status.objects, "users": status.users,
        "sessions": status.sessions, "client_address": status.client_address, "client_socket": status.client_socket,
        "client_certificates_required": status.client_certificates_required,
        "activation_password": status.activation_password,
    });
    Shown { text: lines.join("\n"), json }
}

/// One line of the roster.
fn show_member(member: &Member) -> String {
    let mut words = vec![member.hsm.as_str()];
    words.extend(member.here.then_some("(this)"));
    words.extend(member.leads.then_some("leads"));
    words.extend((member.votes && !member.leads).then_some("votes"));
    words.extend(member.witness.then_some("witness"));
    let (zone, peers) = (format!("zone {:?}", member.zone), format!("peers {}", member.peer_address));
    let (clients, version) = (format!("clients {}", member.client_address), format!("version {}", member.version));
    words.extend([zone.as_str(), peers.as_str()]);
    words.extend((!member.client_address.is_empty()).then_some(clients.as_str()));
    words.push(&version);
    format!("{:<22}{}", "member", words.join(" "))
}

fn member_json(member: &Member) -> serde_json::Value {
    serde_json::json!({
        "hsm": member.hsm, "node": member.node, "witness": member.witness, "zone": member.zone,
        "peer_address": member.peer_address, "client_address": member.client_address, "version": member.version,
        "here": member.here, "leads": member.leads, "votes": member.votes,
    })
}

fn form(mut connection: Connection, label: &str, fips: bool) -> Result<Shown, Fault> {
    connection.done(request::Body::Form(Form { label: label.to_owned(), fips }))?;
    let status = connection.status()?;
    let text = format!(
        "Cluster {} was made, mode {}. Next: `certificates`, have the customer's CA sign ClusterCsr.csr, `initialize`.\n\
         The activation password is shown by `status` until the cluster is activated.",
        status.cluster,
        if fips { "FIPS" } else { "NON_FIPS" }
    );
    Ok(Shown { text, json: show_status(&status).json })
}

fn certificates(mut connection: Connection, folder: &Path) -> Result<Shown, Fault> {
    let reply::Body::Certificates(certificates) = connection.ask(request::Body::Certificates(Certificates {}))? else {
        return Err(connection.unexpected());
    };
    std::fs::create_dir_all(folder).map_err(|error| file_fault(folder, &error))?;
    let mut written = serde_json::Map::new();
    let mut lines = Vec::new();
    for (name, what, pem) in named_files(&certificates) {
        if pem.is_empty() {
            continue;
        }
        let file = folder.join(name);
        std::fs::write(&file, pem).map_err(|error| file_fault(&file, &error))?;
        lines.push(format!("{:<62}{what}", file.display()));
        written.insert(name.to_owned(), file.display().to_string().into());
    }
    Ok(Shown { text: lines.join("\n"), json: written.into() })
}

/// File names, as in AWS's documents where they have one, and what is in the files.
fn named_files(certificates: &CertificatesReply) -> [(&'static str, &'static str, &str); 8] {
    [
        ("ClusterCsr.csr", "the request to sign", &certificates.cluster_csr),
        ("HsmCertificate.crt", "the cluster's key, certified by the card", &certificates.hsm_certificate),
        ("AwsHardwareCertificate.crt", "the card, certified by AwsRoot.crt", &certificates.aws_hardware_certificate),
        (
            "ManufacturerHardwareCertificate.crt",
            "the card, certified by ManufacturerRoot.crt",
            &certificates.manufacturer_hardware_certificate,
        ),
        ("AwsRoot.crt", "root in the place of AWS's", &certificates.aws_root_certificate),
        ("ManufacturerRoot.crt", "root in the place of the maker's", &certificates.manufacturer_root_certificate),
        ("ClusterCertificate.crt", "the installed cluster certificate", &certificates.cluster_certificate),
        ("customerCA.crt", "the customer's CA, which clients trust", &certificates.trust_anchor),
    ]
}

fn initialize(mut connection: Connection, certificate: &Path, trust_anchor: &Path) -> Result<Shown, Fault> {
    let signed_certificate = read_certificate(certificate)?;
    let trust_anchor = read_certificate(trust_anchor)?;
    connection.done(request::Body::Initialize(Initialize { signed_certificate, trust_anchor }))?;
    let status = connection.status()?;
    let text = format!(
        "The cluster is initialised; clients may connect to {}. Next: `kagimori cluster activate`.",
        status.client_address
    );
    Ok(Shown { text, json: show_status(&status).json })
}

fn read_certificate(file: &Path) -> Result<String, Fault> {
    let length = std::fs::metadata(file).map_err(|error| file_fault(file, &error))?.len();
    if length > CERTIFICATE_BYTES as u64 {
        let cause = format!("{length} bytes are more than a certificate may have ({CERTIFICATE_BYTES})");
        return Err(Fault::File { file: file.to_owned(), cause });
    }
    std::fs::read_to_string(file).map_err(|error| file_fault(file, &error))
}

fn join(mut connection: Connection, members: &[SocketAddr]) -> Result<Shown, Fault> {
    let members = members.iter().map(ToString::to_string).collect();
    let reply::Body::Joined(joined) = connection.ask(request::Body::Join(Join { members }))? else {
        return Err(connection.unexpected());
    };
    let status = connection.status()?;
    let text = if joined.complete {
        format!("HSM {} is a member of cluster {}, one of {}.", status.hsm, status.cluster, status.members.len())
    } else {
        "The cluster has admitted this HSM; its state is still on its way. `status` shows when it is there.".to_owned()
    };
    Ok(Shown { text, json: show_status(&status).json })
}

/// Leaves, and waits until the process is gone, which has destroyed its keys then.
fn leave(mut connection: Connection) -> Result<Shown, Fault> {
    let status = connection.status()?;
    connection.done(request::Body::Leave(Leave {}))?;
    wait_for_end(&mut connection, status.process)?;
    let text = format!("HSM {} has left the cluster; its copy of the keys is destroyed.", status.hsm);
    Ok(Shown { text, json: serde_json::json!({ "left": status.hsm }) })
}

/// Tells what a recovery gives up, asks for the cluster's id unless it is said to be known, and recovers.
fn recover(mut connection: Connection, yes: bool) -> Result<Shown, Fault> {
    let plan = connection.recovery("")?;
    eprintln!("{}", show_plan(&plan));
    let typed = if yes { plan.cluster.clone() } else { typed_name()? };
    if typed != plan.cluster {
        return Err(Fault::Settings("what was typed is not the cluster's id, the 32 digits above: nothing was done".to_owned()));
    }
    let done = connection.recovery(&plan.cluster)?;
    let text = format!(
        "Cluster {} goes on with this HSM alone, in the history {}. Everybody must log in again. Let other HSMs join now: \
         new ones, or the old ones with empty data folders.",
        done.cluster, done.incarnation
    );
    let given_up: Vec<_> = done.members.iter().map(|member| member.hsm.clone()).collect();
    let json = serde_json::json!({
        "cluster": done.cluster, "incarnation": done.incarnation, "applied_index": done.applied_index,
        "given_up": given_up,
    });
    Ok(Shown { text, json })
}

/// What is lost and given up, for whoever must decide.
fn show_plan(plan: &Recovery) -> String {
    let mut lines = vec![
        format!("RECOVERY of cluster {}: this HSM goes on ALONE, as the only member of a new history.", plan.cluster),
        format!("  It has applied command {}. Whatever the others acknowledged after it is LOST.", plan.applied_index),
        "  Every login ends. The certificate of the cluster stays.".to_owned(),
        "  These members are given up. They must be OFF, and must never be started with their old data folders:"
            .to_owned(),
    ];
    let heard = |milliseconds: Option<u64>| match milliseconds {
        Some(milliseconds) => format!("heard {} s ago", milliseconds / 1_000),
        None => "not heard since this HSM was started".to_owned(),
    };
    lines.extend(plan.members.iter().map(|member| {
        let applied = member.applied_index.map_or_else(|| "unknown".to_owned(), |index| index.to_string());
        format!(
            "    {} zone {:?} at {}: {}, was at command {applied}",
            member.hsm,
            member.zone,
            member.peer_address,
            heard(member.silent_milliseconds)
        )
    }));
    lines.join("\n")
}

/// Bytes of the line in which the cluster's id is typed: 32 digits, with room for spaces.
const NAME_LINE_BYTES: u64 = 128;

/// A line from standard input.
fn typed_name() -> Result<String, Fault> {
    eprint!("Type the cluster's id, the 32 digits above, to go on: ");
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(NAME_LINE_BYTES)
        .read_line(&mut line)
        .map_err(|error| file_fault(Path::new("standard input"), &error))?;
    Ok(line.trim().to_owned())
}

/// Waits until the process is gone: the kernel closes the connection then, and the data folder is free.
fn stop(mut connection: Connection) -> Result<Shown, Fault> {
    let process = connection.status()?.process;
    connection.done(request::Body::Stop(Stop {}))?;
    wait_for_end(&mut connection, process)?;
    Ok(Shown { text: "The HSM has stopped.".to_owned(), json: serde_json::json!({ "stopped": process }) })
}

fn wait_for_end(connection: &mut Connection, process: u32) -> Result<(), Fault> {
    match codec::receive::<Reply>(&mut connection.stream, limits::STOP_TIME * 2) {
        Err(CodecFault::Closed | CodecFault::Socket(_)) => Ok(()),
        Ok(_) | Err(_) => {
            let message = format!("process {process} has not ended yet; look at its log");
            Err(Fault::Refused { code: ErrorCode::NotReady as u32, message })
        }
    }
}

fn file_fault(file: &Path, error: &std::io::Error) -> Fault {
    Fault::File { file: file.to_owned(), cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_is_asked_for_by_its_option_and_its_variable() {
        let arguments = ManageArguments { socket: None, output: Output::Text, command: ManageCommand::Status };
        let said = run(&arguments, &mut Vec::new()).unwrap_err().to_string();
        assert!(said.contains("--socket") && said.contains("KAGIMORI_HSM_MANAGEMENT_SOCKET"), "{said}");
    }
}
