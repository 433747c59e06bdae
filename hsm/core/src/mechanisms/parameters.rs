//! Which parameters a mechanism takes, and what mode FIPS demands of them.
//!
//! Only what can be said without the key and the data is checked here; `hsm-crypto` checks the rest.

use hsm_protocol::mechanism::kdf;
use hsm_protocol::{ErrorCode, Mechanism, MechanismKind, Parameters};

use super::{MechanismRow, Operations};
use crate::refusal::Refusal;

/// The parameters that a mechanism takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// None.
    None,
    /// An initialization vector of one block (16 bytes).
    Iv,
    /// An initialization vector of any length above 0 (GMAC).
    GmacIv,
    /// None, or the initial value of RFC 3394 (8 bytes) or RFC 5649 (4 bytes).
    WrapIv,
    /// `CK_GCM_PARAMS`.
    Gcm,
    /// `CK_AES_CTR_PARAMS`.
    Ctr,
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    Pss,
    /// `CK_RSA_PKCS_OAEP_PARAMS`.
    Oaep,
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh,
    /// `CK_HKDF_PARAMS`.
    Hkdf,
    /// None or `CK_EDDSA_PARAMS`.
    Eddsa,
    /// `CK_MAC_GENERAL_PARAMS`.
    OutputLength,
    /// `CK_KEY_DERIVATION_STRING_DATA`.
    DerivationData,
    /// `CK_AES_CBC_ENCRYPT_DATA_PARAMS`.
    CbcDerivation,
    /// The handle of a second key.
    OtherKey,
}

/// Bytes of an AES block.
const BLOCK: usize = 16;

impl Shape {
    fn fits(self, parameters: &Parameters) -> bool {
        match (self, parameters) {
            (Self::None | Self::WrapIv | Self::Eddsa, Parameters::None)
            | (Self::Pss, Parameters::Pss { .. })
            | (Self::Oaep, Parameters::Oaep { .. })
            | (Self::Ecdh, Parameters::Ecdh { .. })
            | (Self::Hkdf, Parameters::Hkdf { .. })
            | (Self::OutputLength, Parameters::OutputLength(_))
            | (Self::DerivationData, Parameters::DerivationData(_))
            | (Self::OtherKey, Parameters::OtherKey(_)) => true,
            (Self::None, Parameters::Iv(iv)) => iv.is_empty(),
            (Self::Iv, Parameters::Iv(iv)) => iv.len() == BLOCK,
            (Self::GmacIv, Parameters::Iv(iv)) => !iv.is_empty(),
            (Self::WrapIv, Parameters::Iv(iv)) => matches!(iv.len(), 0 | 4 | 8),
            (Self::Gcm, Parameters::Gcm { tag_bits, .. }) => *tag_bits <= 128 && tag_bits % 8 == 0,
            (Self::Ctr, Parameters::Ctr { counter_bits, .. }) => (1..=128).contains(counter_bits),
            (Self::Eddsa, Parameters::Eddsa { context, .. }) => context.len() <= 255,
            (Self::CbcDerivation, Parameters::CbcDerivation { iv, .. }) => iv.len() == BLOCK,
            _ => false,
        }
    }
}

/// Checks the parameters of a mechanism for one operation.
///
/// # Errors
/// [`ErrorCode::MechanismParameters`] when they are of another shape; [`ErrorCode::FipsRefused`] when mode FIPS does
/// not approve: a GCM IV that the caller chose for encryption (SP 800-38D §8), SHA-1 in a signature or in the X9.63 KDF.
pub fn check_parameters(
    row: &MechanismRow,
    mechanism: &Mechanism,
    operation: Operations,
    fips: bool,
) -> Result<(), Refusal> {
    let refuse = |code| Err(Refusal::of_mechanism(code, row.kind));
    if !row.parameters.fits(&mechanism.parameters) {
        return refuse(ErrorCode::MechanismParameters);
    }
    if let (Parameters::Pss { hash, .. }, Some(built_in)) = (&mechanism.parameters, row.hash)
        && *hash != built_in
    {
        return refuse(ErrorCode::MechanismParameters);
    }
    if fips && !is_approved(&mechanism.parameters, operation) {
        return refuse(ErrorCode::FipsRefused);
    }
    Ok(())
}

fn is_approved(parameters: &Parameters, operation: Operations) -> bool {
    let makes = |one: Operations| operation == one;
    match parameters {
        Parameters::Gcm { generate_iv, .. } => *generate_iv || !(makes(Operations::ENCRYPT) || makes(Operations::WRAP)),
        Parameters::Pss { hash, .. } => *hash != MechanismKind::SHA_1 || !makes(Operations::SIGN),
        Parameters::Ecdh { kdf, .. } => *kdf != kdf::SHA1,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanisms::find;

    fn check(kind: MechanismKind, parameters: Parameters, operation: Operations, fips: bool) -> Option<ErrorCode> {
        let mechanism = Mechanism { kind, parameters };
        check_parameters(find(kind).unwrap(), &mechanism, operation, fips).err().map(|refusal| refusal.code)
    }

    #[test]
    fn fips_refuses_an_iv_that_the_caller_chose_for_gcm_encryption() {
        let gcm =
            |generate_iv| Parameters::Gcm { iv: vec![0; 12], additional_data: vec![], tag_bits: 128, generate_iv };
        let kind = MechanismKind::AES_GCM;
        assert_eq!(check(kind, gcm(false), Operations::ENCRYPT, true), Some(ErrorCode::FipsRefused));
        assert_eq!(check(kind, gcm(true), Operations::ENCRYPT, true), None);
        assert_eq!(check(kind, gcm(false), Operations::DECRYPT, true), None);
        assert_eq!(check(kind, gcm(false), Operations::ENCRYPT, false), None);
    }

    #[test]
    fn parameters_of_another_mechanism_are_refused() {
        let refused = Some(ErrorCode::MechanismParameters);
        assert_eq!(check(MechanismKind::AES_CBC, Parameters::None, Operations::ENCRYPT, false), refused);
        assert_eq!(check(MechanismKind::AES_CBC, Parameters::Iv(vec![0; 15]), Operations::ENCRYPT, false), refused);
        assert_eq!(check(MechanismKind::ECDSA, Parameters::Iv(vec![1]), Operations::SIGN, false), refused);
        let pss = Parameters::Pss { hash: MechanismKind::SHA_1, mgf: 1, salt_length: 20 };
        assert_eq!(check(MechanismKind::SHA256_RSA_PKCS_PSS, pss.clone(), Operations::SIGN, false), refused);
        assert_eq!(check(MechanismKind::RSA_PKCS_PSS, pss, Operations::SIGN, true), Some(ErrorCode::FipsRefused));
    }
}
