//! The certificates with which a customer convinces himself, before he signs, that his cluster's key was made by an HSM
//! of this installation: AWS's initialisation ceremony with roots of our own.
//!
//! Two self-signed roots, made once per installation, certify one and the same card key (the provisioning CA). The card
//! key certifies the cluster's key in `HsmCertificate`; `ClusterCsr` asks the customer's CA to certify it too. The roots'
//! private keys are dropped as soon as they have signed: nobody needs them again, so nobody can steal them.
//!
//! Keys are ECDSA on P-384: no rule of the ceremony asks for RSA in what the HSM makes (AWS's "RSA 2048 or 4096" is about
//! the customer's CA), a handshake costs a tenth of an RSA-2048 one, and the strength fits a certificate of ten years
//! (`docs/compat/initialization.md`). It must not do I/O or look at a clock. `process` stores what it makes.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PublicKeyData, SanType, SigningKey, date_time_ymd,
};
use zeroize::{Zeroize, Zeroizing};

/// Life of the roots and the card's certificates, in days: longer than any cluster's.
const CARD_DAYS: u32 = 365 * 30;

/// Life of `HsmCertificate`, in days: it is looked at once, in the ceremony. AWS's example for the customer's own
/// certificate says 3652.
const HSM_DAYS: u32 = 3652;

/// Certificates begin this much before they are made, for hosts whose clock is a little behind.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A key or certificate could not be made: the cryptographic library failed.
#[derive(Debug, thiserror::Error)]
#[error("a key or certificate of the ceremony could not be made: {0}")]
pub struct CeremonyFault(#[from] rcgen::Error);

/// A private key of the ceremony. Wiped on drop; has no `Debug` and no `Clone`.
pub struct CeremonyKey(KeyPair);

impl CeremonyKey {
    /// A new key.
    ///
    /// # Errors
    /// [`CeremonyFault`].
    pub fn generate() -> Result<Self, CeremonyFault> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?))
    }

    /// The key from its PKCS #8 form.
    ///
    /// # Errors
    /// [`CeremonyFault`] when these bytes are no key of this kind.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, CeremonyFault> {
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(der);
        Ok(Self(KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P384_SHA384)?))
    }

    /// The key in PKCS #8, to be sealed and to be given to TLS.
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialized_der().to_vec())
    }

    /// The public key: DER SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// Signs with SHA-384: ECDSA, DER.
    ///
    /// # Errors
    /// [`CeremonyFault`].
    pub fn sign(&self, statement: &[u8]) -> Result<Vec<u8>, CeremonyFault> {
        Ok(self.0.sign(statement)?)
    }
}

impl Drop for CeremonyKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What is made once per installation.
pub struct Installation {
    /// The provisioning CA's key.
    pub card_key: CeremonyKey,
    /// Certificates that are no secret.
    pub certificates: InstallationCertificates,
}

/// The public side of an installation, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct InstallationCertificates {
    /// Stands where AWS's root stands.
    pub aws_root: String,
    /// Stands where the manufacturer's root stands.
    pub manufacturer_root: String,
    /// The card key, certified by the first root.
    pub aws_hardware: String,
    /// The card key, certified by the second root.
    pub manufacturer_hardware: String,
}

/// What a new cluster gets.
pub struct ClusterIdentity {
    /// The cluster's TLS key.
    pub key: CeremonyKey,
    /// Request for the customer's CA, PEM.
    pub cluster_csr: String,
    /// The cluster's key, certified by the card key, PEM.
    pub hsm_certificate: String,
}

impl Installation {
    /// Makes roots, card key and its two certificates. `name` tells this installation from others; `now` is the time
    /// since 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`CeremonyFault`].
    pub fn make(name: &str, now: Duration) -> Result<Self, CeremonyFault> {
        let card_key = CeremonyKey::generate()?;
        let card = authority(&card_name(name), now, CARD_DAYS, BasicConstraints::Constrained(0));
        let (aws_root, aws_hardware) = certify_card(&format!("Kagimori Hardware Root {name}"), &card, &card_key, now)?;
        let (manufacturer_root, manufacturer_hardware) =
            certify_card(&format!("Kagimori Manufacturer Root {name}"), &card, &card_key, now)?;
        let certificates =
            InstallationCertificates { aws_root, manufacturer_root, aws_hardware, manufacturer_hardware };
        Ok(Self { card_key, certificates })
    }

    /// Makes a cluster's key, the card's certificate over it, and the request for the customer's CA.
    ///
    /// `hsm` is a name of at most 16 characters; `fips` appears in the subject as it does on AWS's.
    ///
    /// # Errors
    /// [`CeremonyFault`].
    pub fn make_cluster_identity(
        &self,
        hsm: &str,
        fips: bool,
        now: Duration,
    ) -> Result<ClusterIdentity, CeremonyFault> {
        let key = CeremonyKey::generate()?;
        let mut params = cluster_name(hsm, fips);
        let cluster_csr = cluster_request(&key, hsm, fips)?;
        set_life(&mut params, now, HSM_DAYS);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_pem(&self.certificates.aws_hardware, &self.card_key.0)?;
        let hsm_certificate = params.signed_by(&key.0, &issuer)?.pem();
        Ok(ClusterIdentity { key, cluster_csr, hsm_certificate })
    }
}

impl Installation {
    /// Certifies an HSM's node key: DER. The certificate names the HSM in its common name and as `kagimori:hsm:…`, and
    /// serves both ends of a connection between HSMs.
    ///
    /// # Errors
    /// [`CeremonyFault`].
    pub fn certify_node(&self, key: &CeremonyKey, hsm: &str, now: Duration) -> Result<Vec<u8>, CeremonyFault> {
        let mut params = named("HSM", hsm);
        set_life(&mut params, now, CARD_DAYS);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(format!("kagimori:hsm:{hsm}").try_into()?)];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_pem(&self.certificates.aws_hardware, &self.card_key.0)?;
        Ok(params.signed_by(&key.0, &issuer)?.der().to_vec())
    }
}

/// The request for a certificate over a cluster's key, PEM. `hsm` says in it which HSM made it.
///
/// # Errors
/// [`CeremonyFault`].
pub fn cluster_request(key: &CeremonyKey, hsm: &str, fips: bool) -> Result<String, CeremonyFault> {
    Ok(cluster_name(hsm, fips).serialize_request(&key.0)?.pem()?)
}

fn cluster_name(hsm: &str, fips: bool) -> CertificateParams {
    let mode = if fips { "FIPS" } else { "NON_FIPS" };
    named("CloudHSM cluster", &format!("HSM:{hsm}:PARTN:1, for {mode} mode"))
}

/// Makes a root, has it certify the card, and forgets its key.
fn certify_card(
    root_name: &str,
    card: &CertificateParams,
    card_key: &CeremonyKey,
    now: Duration,
) -> Result<(String, String), CeremonyFault> {
    let root_key = CeremonyKey::generate()?;
    let root = authority(root_name, now, CARD_DAYS, BasicConstraints::Unconstrained);
    let certificate = root.self_signed(&root_key.0)?;
    let card = card.signed_by(&card_key.0, &Issuer::from_params(&root, &root_key.0))?;
    Ok((certificate.pem(), card.pem()))
}

fn card_name(installation: &str) -> String {
    format!("Kagimori HSM Provisioning {installation}")
}

fn authority(common_name: &str, now: Duration, days: u32, constraints: BasicConstraints) -> CertificateParams {
    let mut params = named("HSM provisioning", common_name);
    set_life(&mut params, now, days);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(unit: &str, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Kagimori");
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn set_life(params: &mut CertificateParams, now: Duration, days: u32) {
    // Whole seconds: X.509 has no smaller unit.
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(BACKDATED).as_secs());
    params.not_after = epoch + Duration::from_secs(now.as_secs() + u64::from(days) * 86_400);
}
