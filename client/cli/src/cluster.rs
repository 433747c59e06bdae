//! `cluster …`: activation, figures, client certificates; what is about members is in `members`.

use std::path::{Path, PathBuf};
use std::process::Command;

use hsm_protocol::{Lifecycle, wire};
use serde_json::json;

use crate::answer::{Answer, table};
use crate::command_line::{ClusterCommand, Level, MtlsCommand, ReissueCommand};
use crate::credentials::{Session, ask, read_file};
use crate::failure::Failure;
use crate::members;

/// Runs a command.
pub(crate) fn run(session: &Session<'_>, command: &ClusterCommand) -> Result<Answer, Failure> {
    match command {
        ClusterCommand::Activate { activation_password_file, password } => {
            let activation = match activation_password_file {
                Some(file) => read_file(file)?,
                None => ask("Activation password (`kagimori-hsm manage status` shows it): ")?,
            };
            let password = password.choose("admin")?;
            session.cluster().activate(activation.as_bytes(), password.as_bytes())?;
            Ok(Answer::sentence("Cluster activation successful"))
        }
        ClusterCommand::Info => info(session),
        ClusterCommand::Mtls(command) => mtls(session, command),
        ClusterCommand::Status => members::status(session),
        ClusterCommand::Admission(command) => members::admission(session, command),
        ClusterCommand::Policy(command) => members::policy(session, command),
        ClusterCommand::Releases(command) => members::releases(session, command),
        ClusterCommand::RemoveHsm { hsm } => members::remove(session, hsm),
        ClusterCommand::Reissue(command) => reissue(session, command),
        ClusterCommand::Recover { socket, yes } => recover(socket, *yes),
    }
}

fn reissue(session: &Session<'_>, command: &ReissueCommand) -> Result<Answer, Failure> {
    let cluster = session.cluster();
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error));
    match command {
        ReissueCommand::Begin { csr_out } => {
            let csr = session.logged_in(|login| Ok(cluster.begin_reissue(login)?))?;
            std::fs::write(csr_out, &csr).map_err(|error| Failure::file(csr_out, &error))?;
            let file = csr_out.display();
            let next = format!("the request is in {file}: have the CA sign it, then `cluster reissue finish`");
            Ok(Answer::new(json!({ "csr": csr }), next))
        }
        ReissueCommand::Finish { certificate, trust_anchor } => {
            let (certificate, trust_anchor) = (read(certificate)?, read(trust_anchor)?);
            session.logged_in(|login| Ok(cluster.finish_reissue(login, &certificate, &trust_anchor)?))?;
            Ok(Answer::sentence("the cluster has another TLS key; every HSM shows its certificate to new connections"))
        }
    }
}

/// The management socket is the HSM program's business: it lies beside this program, or is found by its name.
fn recover(socket: &Path, yes: bool) -> Result<Answer, Failure> {
    const PROGRAM: &str = "kagimori-hsm";
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(PROGRAM));
    let program = beside.filter(|program| program.exists()).unwrap_or_else(|| PathBuf::from(PROGRAM));
    let mut command = Command::new(&program);
    command.arg("manage").arg("--socket").arg(socket).arg("recover").args(yes.then_some("--yes"));
    let status = command.status().map_err(|error| Failure::file(&program, &error))?;
    if status.success() {
        return Ok(Answer::sentence("the cluster goes on with this HSM alone"));
    }
    Err(Failure::misuse("the cluster was not recovered", "read what kagimori-hsm said above"))
}

fn info(session: &Session<'_>) -> Result<Answer, Failure> {
    let hello = session.cluster().hello()?;
    let info = session.cluster().cluster_info()?;
    let lifecycle =
        Lifecycle::from_number(hello.lifecycle).map_or("none".to_owned(), |found| format!("{found:?}").to_lowercase());
    let mode = if hello.fips { "FIPS" } else { "NON_FIPS" };
    let hsms: Vec<_> = info.members.iter().map(|member| json!({
        "vendor": "Kagimori", "model": "kagimori-hsm", "serial-number": hello.serial, "hsm-id": hexadecimal(&member.hsm),
        "address": member.address, "firmware-version": member.version, "leader": member.leader, "voter": member.voter,
        "fips-state": mode,
    })).collect();
    let data = json!({
        "label": hello.label, "cluster-id": hexadecimal(&hello.cluster), "lifecycle": lifecycle, "mode": mode,
        "trusts-development": info.trusts_development, "applied-index": info.applied_index, "objects": info.objects, "users": info.users, "sessions": info.sessions,
        "mtls-enforcement-level": level_name(info.client_certificates_required), "hsms": hsms,
    });
    let facts = table(
        &["cluster", &hello.label],
        [
            vec!["id".to_owned(), hexadecimal(&hello.cluster)],
            vec!["lifecycle".to_owned(), lifecycle],
            vec!["mode".to_owned(), mode.to_owned()],
            vec!["client certificates".to_owned(), required(info.client_certificates_required).to_owned()],
            vec!["objects, users, sessions".to_owned(), format!("{}, {}, {}", info.objects, info.users, info.sessions)],
            vec!["log index".to_owned(), info.applied_index.to_string()],
            vec!["programs".to_owned(), programs(info.trusts_development).to_owned()],
        ],
    );
    let members = info.members.iter().map(|member| {
        let part = match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        vec![hexadecimal(&member.hsm), member.address.clone(), member.version.clone(), part.to_owned()]
    });
    let members = table(&["HSM", "address", "version", "part"], members);
    Ok(Answer::new(data, format!("{facts}\n{members}")))
}

fn mtls(session: &Session<'_>, command: &MtlsCommand) -> Result<Answer, Failure> {
    let cluster = session.cluster();
    match command {
        MtlsCommand::RegisterTrustAnchor { path } => {
            let certificate = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
            let reference = session.logged_in(|login| Ok(cluster.register_trust_anchor(login, &certificate)?))?;
            let data = json!({ "trust_anchor": anchor(reference, &certificate) });
            Ok(Answer::new(data, format!("trust anchor {reference:#04x} is registered")))
        }
        MtlsCommand::DeregisterTrustAnchor { certificate_reference } => {
            let references =
                certificate_reference.iter().map(|text| parse_reference(text)).collect::<Result<Vec<_>, _>>()?;
            session.logged_in(|login| {
                for &reference in &references {
                    cluster.deregister_trust_anchor(login, reference)?;
                }
                Ok(())
            })?;
            let named: Vec<String> = references.iter().map(|reference| format!("{reference:#04x}")).collect();
            let message = format!("Trust anchor with reference {} deregistered successfully", named.join(", "));
            Ok(Answer::new(json!({ "message": message }), message))
        }
        MtlsCommand::ListTrustAnchors => {
            let reply = list(session)?;
            let anchors: Vec<_> = reply.items.iter().map(|item| anchor(item.reference, &item.certificate)).collect();
            let rows = reply
                .items
                .iter()
                .map(|item| vec![format!("{:#04x}", item.reference), item.certificate.trim().to_owned()]);
            Ok(Answer::new(json!({ "trust_anchors": anchors }), table(&["reference", "certificate"], rows)))
        }
        MtlsCommand::GetEnforcement => {
            let is_required = list(session)?.required;
            let data = json!({ "mtls-enforcement-level": level_name(is_required) });
            Ok(Answer::new(data, format!("client certificates: {}", required(is_required))))
        }
        MtlsCommand::SetEnforcement { level } => {
            let is_required = *level == Level::Cluster;
            session.logged_in(|login| Ok(cluster.set_client_certificates(login, is_required)?))?;
            let message = format!("Client certificates are {} from now on", required(is_required));
            Ok(Answer::new(json!({ "message": message }), message))
        }
    }
}

fn list(session: &Session<'_>) -> Result<wire::ListTrustAnchorsReply, Failure> {
    session.perhaps_logged_in(|login| Ok(session.cluster().list_trust_anchors(login)?))
}

fn anchor(reference: u32, certificate: &str) -> serde_json::Value {
    json!({ "certificate-reference": format!("{reference:#04x}"), "certificate": certificate, "cluster-coverage": "full" })
}

fn parse_reference(text: &str) -> Result<u32, Failure> {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16));
    parsed.map_err(|_| {
        Failure::misuse(format!("{text:?} is no reference"), "use one that `list-trust-anchors` shows, such as 0x01")
    })
}

fn level_name(is_required: bool) -> &'static str {
    if is_required { "cluster" } else { "none" }
}

/// Which programs of HSMs take part, in words.
fn programs(trusts_development: bool) -> &'static str {
    if trusts_development { "DEVELOPMENT: every build takes part" } else { "signed releases only" }
}

fn required(is_required: bool) -> &'static str {
    if is_required { "required" } else { "not required" }
}

/// Octets as two digits each.
pub(crate) fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
