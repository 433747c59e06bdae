//! What a new cluster begins with: names, keys, certificates, the activation password. Made here, proposed by `member`.

use std::net::SocketAddr;

use hsm_core::command::{CeremonyCertificates, Form};
use hsm_core::{ClusterId, Epoch, HsmId, Incarnation, MemberKind, MemberRecord, NodeId, Stamp};
use hsm_crypto::{ClusterKeys, Module};
use hsm_protocol::Lifecycle;
use zeroize::Zeroizing;

use crate::exit::Fault;
use crate::member::{PURPOSE_ACTIVATION, PURPOSE_CLUSTER_KEY, Surroundings, hexadecimal, now, stopped};
use crate::{installation, limits};

/// Letters and digits, as passwords that quickstart prints must be typed and quoted by people.
const PASSWORD_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Epoch of a new cluster's master key.
pub(crate) const FIRST_EPOCH: Epoch = Epoch(1);

/// Everything that a new cluster begins with.
pub(crate) fn first_command(
    surroundings: &Surroundings,
    keys: &ClusterKeys,
    cluster: ClusterId,
    label: &str,
    fips: bool,
) -> Result<Form, Fault> {
    let module = &surroundings.module;
    let now = now();
    let hsm = hexadecimal(&surroundings.hsm[..8]);
    let installation =
        installation::read_or_make(&surroundings.folder, surroundings.settings.installation(), &hsm, now)?;
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
        node: NodeId::default(),
        member: own_record(surroundings, None),
        releases: surroundings.release.first_rule(),
    })
}

/// What the roster shall say of this HSM, which listens for clients at `bound`, once it does.
pub(crate) fn own_record(surroundings: &Surroundings, bound: Option<SocketAddr>) -> MemberRecord {
    let Surroundings { settings, identity, .. } = surroundings;
    let kind = if settings.witness() { MemberKind::Witness } else { MemberKind::Hsm };
    let (client_address, sealing_key) = match kind {
        MemberKind::Witness => (String::new(), Vec::new()),
        MemberKind::Hsm if settings.client_address().is_empty() => {
            (bound.unwrap_or(settings.listen()).to_string(), identity.sealing().public().to_vec())
        }
        MemberKind::Hsm => (settings.client_address().to_owned(), identity.sealing().public().to_vec()),
    };
    MemberRecord {
        hsm: HsmId(surroundings.hsm),
        kind,
        zone: settings.zone().to_owned(),
        peer_address: settings.peers().map(|peers| peers.address.to_string()).unwrap_or_default(),
        client_address,
        certificate: identity.certificate().to_vec(),
        sealing_key,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state_version: settings.newest_state(),
        admitted_at: Stamp::default(),
    }
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

/// Random octets by value.
pub(crate) fn random<const N: usize>(module: &Module) -> Result<[u8; N], Fault> {
    module.random_bytes().map_err(|fault| stopped(&fault))
}
