//! Answers to management requests: status, form, certificates, initialize, join, leave, stop.
//!
//! Each runs on the thread of a management connection. A request that changes the cluster holds a lock, so that two
//! people do not form at once; what can be refused is refused before anything is made.

use std::sync::Arc;

use std::sync::atomic::Ordering;

use hsm_core::{Action, Hsm, HsmId, MemberKind};
use hsm_protocol::management::{
    CertificatesReply, Done, Form, Initialize, Join, Joined, Member as MemberLine, Recovery, Reply, Request,
    StatusReply, reply, request,
};
use hsm_protocol::{ErrorCode, Lifecycle};
use hsm_replication::{Outcome, Status};

use super::membership::ADMITTED;
use super::{Event, Process, report};
use crate::customer_certificate::CheckedCertificates;
use crate::exit::Fault;
use crate::joining::JoinFault;
use crate::limits::{JOIN_ADDRESSES as ADDRESSES, JOIN_TIME, LABEL_BYTES};
use crate::management::server::failure;
use crate::member::{self, Member};
use crate::{epochs, installation, recovery};

/// A request that was not done: a code, and a sentence for a person.
struct No(ErrorCode, String);

impl From<Fault> for No {
    fn from(fault: Fault) -> Self {
        tracing::error!(%fault, "a management request failed");
        let code = match &fault {
            Fault::Disk { .. } => ErrorCode::StorageFull,
            Fault::Listen { .. } | Fault::RootOfTrust { .. } | Fault::Settings(_) => ErrorCode::NotReady,
            _ => ErrorCode::Broken,
        };
        Self(code, fault.to_string())
    }
}

fn no<T>(code: ErrorCode, message: &str) -> Result<T, No> {
    Err(No(code, message.to_owned()))
}

/// What [`Process::joining`] says while a new history begins.
const RECOVERS: &str = "this HSM begins a new history of its cluster, alone";

const NO_CLUSTER: &str = "this HSM belongs to no cluster yet; `form` makes one";

impl Process {
    /// Answers one request.
    pub(super) fn answer(self: &Arc<Self>, request: Request) -> Reply {
        let answered = match request.body {
            Some(request::Body::Status(_)) => self.status().map(reply::Body::Status),
            Some(request::Body::Form(form)) => self.form(&form).map(|()| reply::Body::Done(Done {})),
            Some(request::Body::Certificates(_)) => self.certificates().map(reply::Body::Certificates),
            Some(request::Body::Initialize(initialize)) => {
                self.initialize(&initialize).map(|()| reply::Body::Done(Done {}))
            }
            Some(request::Body::Join(join)) => self.join(&join).map(reply::Body::Joined),
            Some(request::Body::Leave(_)) => self.leave().map(|()| reply::Body::Done(Done {})),
            Some(request::Body::Recover(recover)) => self.recover(&recover.cluster).map(reply::Body::Recovery),
            Some(request::Body::Stop(_)) => {
                report(&self.events, Event::Stop("management"));
                Ok(reply::Body::Done(Done {}))
            }
            None => no(ErrorCode::UnknownMethod, "this HSM does not know the request; it may be of an older version"),
        };
        match answered {
            Ok(body) => Reply { body: Some(body) },
            Err(No(code, message)) => {
                tracing::warn!(?code, message, "management request refused");
                failure(code, &message)
            }
        }
    }

    fn status(&self) -> Result<StatusReply, No> {
        let mut status = StatusReply {
            hsm: member::hexadecimal(&self.surroundings.hsm),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            sandbox: self.sandbox.to_string(),
            joining: self.joining.lock().clone(),
            witness: self.surroundings.settings.witness(),
            ..StatusReply::default()
        };
        let Some(member) = self.member() else { return Ok(status) };
        if let Some(password) = member.activation_password()? {
            status.activation_password = password.as_str().to_owned();
        }
        if let Some(address) = member.client_address() {
            status.client_address = address.to_string();
            let socket = self.surroundings.settings.unix_socket();
            status.client_socket = socket.map(|(path, _)| path.display().to_string()).unwrap_or_default();
        }
        status.applied_index = member.node().applied().0;
        status.holds_epoch_before = member.holds_epoch_before();
        // First how the node does, then its state: the other way round the state would be held while others are asked.
        let node = member.node().status();
        let state = member.node().read();
        status.objects = state.object_count();
        status.users = state.user_count();
        status.sessions = state.session_count();
        if let Some(record) = state.cluster() {
            status.lifecycle = record.lifecycle as u32;
            status.cluster = member::hexadecimal(&record.cluster.0);
            status.incarnation = member::hexadecimal(&record.incarnation.0);
            status.fips = record.fips;
            status.epoch = record.epoch.0;
            status.epoch_progress = epochs::progress(record.epoch, state.epoch_record());
            status.commands_version = record.version;
            status.label = record.label.clone();
            status.client_certificates_required = record.client_certificates_required;
        }
        status.members = members(&state, &node);
        Ok(status)
    }

    /// The membership, or why there is none.
    fn member_or_why(&self) -> Result<Arc<Member>, No> {
        match (self.member(), self.joining.lock().as_str()) {
            (Some(member), _) => Ok(member),
            (None, "") => no(ErrorCode::LifecycleRefused, NO_CLUSTER),
            (None, joining) => no(ErrorCode::NotReady, joining),
        }
    }

    fn join(self: &Arc<Self>, join: &Join) -> Result<Joined, No> {
        let _alone = self.change.lock();
        if self.member().is_some() {
            return no(ErrorCode::LifecycleRefused, "this HSM belongs to a cluster already; `leave` ends that");
        }
        if join.members.is_empty() || join.members.len() > ADDRESSES {
            let rule = format!("name 1 to {ADDRESSES} peer addresses of members");
            return no(ErrorCode::AttributeValue, &rule);
        }
        let members: Result<Vec<_>, _> = join.members.iter().map(|address| address.parse()).collect();
        let Ok(members) = members else { return no(ErrorCode::AttributeValue, "a peer address is no ADDRESS:PORT") };
        match self.join_within(members, JOIN_TIME) {
            Some(Ok(())) => Ok(Joined { complete: true }),
            Some(Err(JoinFault::Refused { code, message })) => Err(No(code, message)),
            Some(Err(JoinFault::Fault(fault))) => Err(fault.into()),
            None if self.joining.lock().as_str() == ADMITTED => Ok(Joined { complete: false }),
            None => no(ErrorCode::Busy, "the join is still under way; `status` tells how far it is"),
        }
    }

    /// The cluster goes on without this HSM.
    fn leave(&self) -> Result<(), No> {
        let _alone = self.change.lock();
        let member = self.member_or_why()?;
        match member.propose(Action::RemoveMember { hsm: HsmId(self.surroundings.hsm) }) {
            Outcome::Done { result: Ok(_), .. } => {
                report(&self.events, Event::Left);
                Ok(())
            }
            // The others cut it off as soon as they knew, so that it heard of its leaving from them.
            Outcome::Unavailable(_) | Outcome::Unknown if self.removed.load(Ordering::Acquire) => Ok(()),
            Outcome::Done { result: Err(refusal), .. } => no(refusal.code, refusal.code.explanation()),
            Outcome::Unavailable(code) => no(code, code.explanation()),
            Outcome::Unknown => no(ErrorCode::Unknown, "whether this HSM has left is unknown; `status` will tell"),
        }
    }

    /// The survivor goes on alone, or (without a name) it is told what that would be.
    fn recover(&self, cluster: &str) -> Result<Recovery, No> {
        let _alone = self.change.lock();
        let member = self.member_or_why()?;
        let plan = recovery::plan(&member).map_err(|refusal| No(refusal.code(), refusal.to_string()))?;
        if cluster.is_empty() {
            return Ok(plan);
        }
        if cluster != plan.cluster {
            return no(ErrorCode::AttributeValue, "this HSM belongs to another cluster than the one that was named");
        }
        *self.member.write() = None;
        RECOVERS.clone_into(&mut self.joining.lock());
        let recovered = recovery::recover(&self.surroundings, member).and_then(|member| self.adopt(member));
        self.joining.lock().clear();
        match recovered {
            Ok(member) => {
                let incarnation = member::hexadecimal(&member.place().incarnation);
                Ok(Recovery { incarnation, done: true, applied_index: member.node().applied().0, ..plan })
            }
            Err(fault) => {
                // The store is the old member's or the new one's; a start goes on with what it is.
                let said = fault.to_string();
                report(&self.events, Event::Unable(fault));
                Err(No(ErrorCode::Broken, format!("it was stopped, and did not come back: {said}")))
            }
        }
    }

    fn form(&self, form: &Form) -> Result<(), No> {
        let _alone = self.change.lock();
        if self.member().is_some() {
            return no(ErrorCode::LifecycleRefused, "this HSM belongs to a cluster already; a new one needs a new HSM");
        }
        if self.surroundings.settings.witness() {
            return no(
                ErrorCode::LifecycleRefused,
                "a witness holds no keys, so no cluster begins with it; it joins one",
            );
        }
        if !self.joining.lock().is_empty() {
            return no(ErrorCode::Busy, "this HSM is joining a cluster; `status` tells how far it is");
        }
        if form.label.is_empty() || form.label.len() > LABEL_BYTES || form.label.chars().any(char::is_control) {
            let rule = format!("the label must have 1 to {LABEL_BYTES} bytes and no control characters");
            return no(ErrorCode::AttributeValue, &rule);
        }
        let member = Member::form(&self.surroundings, &form.label, form.fips)?;
        self.adopt(member)?;
        Ok(())
    }

    fn certificates(&self) -> Result<CertificatesReply, No> {
        let member = self.member_or_why()?;
        let mut certificates = CertificatesReply::default();
        if let Some(record) = member.node().read().cluster() {
            certificates.cluster_certificate = record.certificate.clone();
            certificates.trust_anchor = record.trust_anchor.clone();
            // As in AWS's API: the ceremony is over once the customer has signed.
            if record.lifecycle == Lifecycle::Uninitialized {
                let ceremony = &record.ceremony;
                certificates.cluster_csr = ceremony.cluster_csr.clone();
                certificates.hsm_certificate = ceremony.hsm_certificate.clone();
                certificates.aws_hardware_certificate = ceremony.aws_hardware_certificate.clone();
                certificates.manufacturer_hardware_certificate = ceremony.manufacturer_hardware_certificate.clone();
            }
        }
        if let Some(installation) =
            installation::certificates(&self.surroundings.folder, self.surroundings.settings.installation())?
        {
            certificates.aws_root_certificate = installation.aws_root;
            certificates.manufacturer_root_certificate = installation.manufacturer_root;
        }
        Ok(certificates)
    }

    fn initialize(&self, initialize: &Initialize) -> Result<(), No> {
        let _alone = self.change.lock();
        let member = self.member_or_why()?;
        if member.node().read().lifecycle() != Some(Lifecycle::Uninitialized) {
            return no(ErrorCode::LifecycleRefused, "the cluster is initialised already; that happens once");
        }
        let checked = CheckedCertificates::check(
            &initialize.signed_certificate,
            &initialize.trust_anchor,
            &member.cluster_public_key()?,
            member::now(),
        )
        .map_err(|refusal| No(ErrorCode::CertificateRefused, refusal.to_string()))?;
        let action = Action::InstallCertificate {
            certificate: checked.certificate().to_owned(),
            trust_anchor: checked.trust_anchor().to_owned(),
        };
        match member.propose(action) {
            Outcome::Done { result: Ok(_), .. } => {}
            Outcome::Done { result: Err(refusal), .. } => return no(refusal.code, refusal.code.explanation()),
            Outcome::Unavailable(code) => return no(code, code.explanation()),
            Outcome::Unknown => {
                return no(ErrorCode::Unknown, "whether the certificate was installed is unknown; `status` will tell");
            }
        }
        member.open_doors()?;
        Ok(())
    }
}

/// The roster, as this node sees it.
fn members(state: &Hsm, here: &Status) -> Vec<MemberLine> {
    let lines = state.members().iter().map(|(node, member)| MemberLine {
        hsm: member::hexadecimal(&member.hsm.0),
        node: format!("{:016x}", node.0),
        witness: member.kind == MemberKind::Witness,
        zone: member.zone.clone(),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        version: member.version.clone(),
        here: node.0 == here.node,
        leads: Some(node.0) == here.leader,
        votes: here.voters.contains(&node.0),
    });
    lines.collect()
}
