//! The life of a cluster: formed, initialised, activated, zeroized. Each step is taken once and in this order.

use hsm_protocol::limits::CERTIFICATE_BYTES;
use hsm_protocol::{ErrorCode, Lifecycle, Role, UserName};

use super::{Answer, roster};
use crate::change::{Effect, Response};
use crate::cluster::{ClusterRecord, QuotaProfile};
use crate::command::{CeremonyCertificates, Form, Verifier};
use crate::ids::{Stamp, UserId};
use crate::limits::LABEL_BYTES;
use crate::records::{Caller, UserRecord};
use crate::refusal::Refusal;
use crate::roster::ClusterPolicy;
use crate::rows::AttemptKey;
use crate::state::State;
use crate::work::Work;

/// The admin whom activation gives a password.
pub(super) const FIRST_ADMIN: UserId = UserId(1);

/// His name: AWS CloudHSM user guide, "Activate the cluster".
const FIRST_ADMIN_NAME: &str = "admin";

/// The user of replication: AWS CloudHSM calls it `app_user`.
const APPLIANCE_NAME: &str = "app_user";

pub(super) fn form(work: &mut Work<'_>, form: &Form) -> Answer {
    if work.state.cluster.is_some() {
        return Err(ErrorCode::LifecycleRefused.into());
    }
    if form.label.is_empty() || form.label.len() > LABEL_BYTES || form.lifecycle != Lifecycle::Uninitialized {
        return Err(ErrorCode::Malformed.into());
    }
    if !form.releases.is_possible() {
        return Err(ErrorCode::Malformed.into());
    }
    work.put_cluster(ClusterRecord {
        cluster: form.cluster,
        incarnation: form.incarnation,
        fips: form.fips,
        label: form.label.clone(),
        epoch: form.epoch,
        lifecycle: Lifecycle::Uninitialized,
        sealed_activation_password: form.sealed_activation_password.clone(),
        sealed_cluster_key: form.sealed_cluster_key.clone(),
        ceremony: form.certificates.clone(),
        certificate: String::new(),
        trust_anchor: String::new(),
        client_anchors: Vec::new(),
        client_certificates_required: false,
        quotas: QuotaProfile::Ours,
        version: form.member.state_version,
        policy: ClusterPolicy { releases: form.releases.clone(), ..ClusterPolicy::default() },
        epoch_due: false,
        sealed_next_cluster_key: Vec::new(),
    });
    roster::found(work, form.node, &form.member)?;
    let first = |name: &str, role, verifier| {
        let name = UserName::new(name).unwrap_or_else(|_| unreachable!("both names keep the rules"));
        let (generation, failures, last_attempt) = (0, 0, Stamp(0));
        UserRecord { name, role, verifier, generation, failures, last_attempt, enabled: true, created_at: work.stamp }
    };
    let admin = first(FIRST_ADMIN_NAME, Role::UnactivatedAdmin, Some(form.activation.clone()));
    let appliance = first(APPLIANCE_NAME, Role::Appliance, None);
    for record in [admin, appliance] {
        let user = work.counters().next_user;
        work.counters().next_user = UserId(user.0 + 1);
        work.put_user(user, Some(record));
    }
    Ok(Response::Done)
}

pub(super) fn install_certificate(work: &mut Work<'_>, certificate: &str, trust_anchor: &str) -> Answer {
    let mut cluster = cluster_in(work.state, Lifecycle::Uninitialized)?;
    for pem in [certificate, trust_anchor] {
        check_pem(pem)?;
    }
    cluster.certificate = certificate.to_owned();
    cluster.trust_anchor = trust_anchor.to_owned();
    cluster.lifecycle = Lifecycle::Initialized;
    // AWS: only the cluster's certificate stays in DescribeClusters after initialisation.
    cluster.ceremony = CeremonyCertificates::default();
    work.put_cluster(cluster);
    work.effect(Effect::ReloadTls);
    Ok(Response::Done)
}

pub(super) fn activate(work: &mut Work<'_>, verifier: &Verifier) -> Answer {
    let mut cluster = cluster_in(work.state, Lifecycle::Initialized)?;
    cluster.lifecycle = Lifecycle::Active;
    cluster.sealed_activation_password.clear();
    work.put_cluster(cluster);
    let admin = work.user(FIRST_ADMIN);
    let mut admin = admin.unwrap_or_else(|| panic!("a cluster that was initialised has lost its first admin"));
    admin.role = Role::Admin;
    admin.verifier = Some(verifier.clone());
    admin.generation += 1;
    admin.failures = 0;
    work.put_user(FIRST_ADMIN, Some(admin));
    Ok(Response::Done)
}

/// By an admin in a session, or by the HSM itself when it found its integrity broken (no session).
pub(super) fn zeroize(work: &mut Work<'_>, caller: Caller) -> Answer {
    let cluster = work.state.cluster.clone();
    let cluster = cluster.filter(|cluster| cluster.lifecycle != Lifecycle::Zeroized);
    let mut cluster = cluster.ok_or(ErrorCode::LifecycleRefused)?;
    if caller.session.is_some() && caller.role != Some(Role::Admin) {
        return Err(ErrorCode::RoleRefused.into());
    }
    cluster.lifecycle = Lifecycle::Zeroized;
    cluster.sealed_activation_password.clear();
    cluster.sealed_cluster_key.clear();
    work.put_cluster(cluster);
    for (handle, object) in work.state.objects.iter() {
        work.put_object(handle, None);
        if object.has_payload() {
            work.put_payload(handle, None);
        }
    }
    work.state.sessions.keys().for_each(|&session| work.end_session(session));
    work.state.users.keys().for_each(|&user| work.put_user(user, None));
    work.state.attempts.keys().for_each(|&attempt| work.put_attempt(attempt, None));
    for (name, role) in work.state.unknown_names.keys() {
        work.put_unknown_name(&AttemptKey::UnknownName(name.clone(), *role), None);
    }
    work.effect(Effect::Zeroize);
    Ok(Response::Done)
}

/// Whether a certificate can be one, as far as this crate looks: the server has parsed it.
pub(super) fn check_pem(pem: &str) -> Result<(), Refusal> {
    let looks_like_one = pem.contains("-----BEGIN CERTIFICATE-----") && pem.len() <= CERTIFICATE_BYTES;
    if looks_like_one { Ok(()) } else { Err(ErrorCode::CertificateRefused.into()) }
}

fn cluster_in(state: &State, lifecycle: Lifecycle) -> Result<ClusterRecord, Refusal> {
    let cluster = state.cluster.as_ref().filter(|cluster| cluster.lifecycle == lifecycle);
    cluster.cloned().ok_or(ErrorCode::LifecycleRefused.into())
}
