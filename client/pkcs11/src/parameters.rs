//! Mechanism parameters: every C structure that a mechanism of this product takes, read into the checked types.
//!
//! The length must be that of the structure, pointers inside must be good for their lengths, and a mechanism without
//! parameters gets none. Whether the values fit the key is for the HSM to say. Sections are those of PKCS#11 3.2.

#![expect(unsafe_code, reason = "the C border: CK_MECHANISM and what it points to")]

use cryptoki_sys::*;
use hsm_client::With;
use hsm_protocol::limits::ATTRIBUTE_BYTES;
use hsm_protocol::mechanism::HkdfSalt;
use hsm_protocol::{Mechanism, MechanismKind, Parameters, convert, wire};

use crate::memory::{self, Input};
use crate::objects::Reference;
use crate::return_value::{Outcome, ReturnValue, refuse};

const INVALID: ReturnValue = ReturnValue(CKR_MECHANISM_PARAM_INVALID);

/// Bytes of `CK_GCM_PARAMS` as PKCS#11 2.40 printed it at first, without `ulIvBits` (corrected by its errata).
const GCM_BYTES_WITHOUT_IV_BITS: usize = size_of::<CK_GCM_PARAMS>() - size_of::<CK_ULONG>();

/// A mechanism of a caller, with the second key that its parameters may name.
#[derive(Clone)]
pub(crate) struct ReadMechanism {
    mechanism: Mechanism,
    second_key: Option<Reference>,
}

impl ReadMechanism {
    /// A mechanism whose parameters name no key.
    pub(crate) fn new(mechanism: Mechanism) -> Self {
        Self { mechanism, second_key: None }
    }

    /// Which one.
    pub(crate) fn kind(&self) -> MechanismKind {
        self.mechanism.kind
    }

    /// Its parameters.
    pub(crate) fn parameters(&self) -> &Parameters {
        &self.mechanism.parameters
    }

    /// As the HSM reads it.
    pub(crate) fn message(&self, with: With) -> wire::Mechanism {
        let Some(second_key) = &self.second_key else {
            return convert::mechanism_message(&self.mechanism);
        };
        let mut mechanism = self.mechanism.clone();
        if let Parameters::OtherKey(reference) | Parameters::Hkdf { salt: HkdfSalt::Key(reference), .. } =
            &mut mechanism.parameters
        {
            *reference = second_key.protocol(with);
        }
        convert::mechanism_message(&mechanism)
    }
}

/// Reads a mechanism. `find` looks up the handle of a second key.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` for NULL, `CKR_MECHANISM_PARAM_INVALID`, or what `find` says of a handle.
///
/// # Safety
/// `pointer` is NULL or a mechanism whose parameters are as PKCS#11 says for it.
pub(crate) unsafe fn read(
    pointer: *const CK_MECHANISM,
    find: &dyn Fn(CK_OBJECT_HANDLE) -> Outcome<Reference>,
) -> Outcome<ReadMechanism> {
    // SAFETY: promised by the caller.
    let mechanism = unsafe { memory::read(pointer) }?;
    // SAFETY: promised by the caller.
    let input = unsafe { Input::new(mechanism.pParameter.cast::<u8>(), mechanism.ulParameterLen) }
        .map_err(|ReturnValue(_)| INVALID)?;
    if input.len() > ATTRIBUTE_BYTES {
        return Err(INVALID);
    }
    let kind = MechanismKind(mechanism.mechanism);
    let mut second_key = None;
    // SAFETY: promised by the caller.
    let parameters = unsafe { read_parameters(kind, &input.copy()?, find, &mut second_key) }?;
    Ok(ReadMechanism { mechanism: Mechanism { kind, parameters }, second_key })
}

/// # Safety
/// Pointers in the structure are NULL or readable for their lengths.
unsafe fn read_parameters(
    kind: MechanismKind,
    bytes: &[u8],
    find: &dyn Fn(CK_OBJECT_HANDLE) -> Outcome<Reference>,
    second_key: &mut Option<Reference>,
) -> Outcome<Parameters> {
    use MechanismKind as M;
    // SAFETY: promised by the caller, for each of the calls below.
    unsafe {
        match kind {
            M::RSA_PKCS_OAEP => oaep(bytes),
            _ if is_pss(kind) => pss(bytes),
            _ if is_general_mac(kind) => structure::<CK_ULONG>(bytes).map(Parameters::OutputLength),
            M::AES_CBC | M::AES_CBC_PAD => iv(bytes, 16..=16),
            M::AES_KEY_WRAP | M::AES_KEY_WRAP_PAD | M::AES_KEY_WRAP_PKCS7 if bytes.is_empty() => Ok(Parameters::None),
            M::AES_KEY_WRAP_KWP if bytes.is_empty() => Ok(Parameters::None),
            M::AES_KEY_WRAP | M::AES_KEY_WRAP_PAD | M::AES_KEY_WRAP_PKCS7 => iv(bytes, 8..=8),
            M::AES_KEY_WRAP_KWP => iv(bytes, 4..=4),
            M::AES_GMAC => iv(bytes, 1..=256),
            M::AES_CTR => ctr(bytes),
            M::AES_GCM => gcm(bytes),
            M::EDDSA if bytes.is_empty() => Ok(Parameters::None),
            M::EDDSA => eddsa(bytes),
            M::ECDH1_DERIVE | M::ECDH1_COFACTOR_DERIVE => ecdh(bytes),
            M::HKDF_DERIVE | M::HKDF_DATA => hkdf(bytes, find, second_key),
            M::AES_ECB_ENCRYPT_DATA
            | M::CONCATENATE_BASE_AND_DATA
            | M::CONCATENATE_DATA_AND_BASE
            | M::XOR_BASE_AND_DATA => string_data(bytes),
            M::AES_CBC_ENCRYPT_DATA => cbc_data(bytes),
            M::CONCATENATE_BASE_AND_KEY => {
                let key = find(structure::<CK_OBJECT_HANDLE>(bytes)?)?;
                let reference = key.protocol(With { sealed_objects: false, ..With::default() });
                *second_key = Some(key);
                Ok(Parameters::OtherKey(reference))
            }
            _ if bytes.is_empty() => Ok(Parameters::None),
            _ => Err(INVALID),
        }
    }
}

/// `CKM_RSA_PKCS_PSS` and its forms with a hash: §6.1.10 and §6.1.15.
fn is_pss(kind: MechanismKind) -> bool {
    use MechanismKind as M;
    matches!(
        kind,
        M::RSA_PKCS_PSS
            | M::SHA1_RSA_PKCS_PSS
            | M::SHA224_RSA_PKCS_PSS
            | M::SHA256_RSA_PKCS_PSS
            | M::SHA384_RSA_PKCS_PSS
            | M::SHA512_RSA_PKCS_PSS
            | M::SHA3_224_RSA_PKCS_PSS
            | M::SHA3_256_RSA_PKCS_PSS
            | M::SHA3_384_RSA_PKCS_PSS
            | M::SHA3_512_RSA_PKCS_PSS
    )
}

/// MACs whose caller says how long they are: `CK_MAC_GENERAL_PARAMS`.
fn is_general_mac(kind: MechanismKind) -> bool {
    use MechanismKind as M;
    matches!(
        kind,
        M::SHA_1_HMAC_GENERAL
            | M::SHA224_HMAC_GENERAL
            | M::SHA256_HMAC_GENERAL
            | M::SHA384_HMAC_GENERAL
            | M::SHA512_HMAC_GENERAL
            | M::SHA3_224_HMAC_GENERAL
            | M::SHA3_256_HMAC_GENERAL
            | M::SHA3_384_HMAC_GENERAL
            | M::SHA3_512_HMAC_GENERAL
            | M::AES_CMAC_GENERAL
    )
}

/// A structure of this length and no other.
fn structure<T: Copy>(bytes: &[u8]) -> Outcome<T> {
    if bytes.len() != size_of::<T>() {
        return Err(INVALID);
    }
    // SAFETY: there are as many bytes as the structure has, and every bit pattern is a value of these C structures
    // (numbers and raw pointers); alignment is not assumed.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Bytes that a structure points to.
///
/// # Safety
/// `pointer` is NULL or readable for `length` bytes.
unsafe fn pointed(pointer: *const u8, length: CK_ULONG) -> Outcome<Vec<u8>> {
    // SAFETY: promised by the caller.
    let input = unsafe { Input::new(pointer, length) }.map_err(|_| INVALID)?;
    if input.len() > ATTRIBUTE_BYTES { Err(INVALID) } else { input.copy() }
}

fn iv(bytes: &[u8], lengths: std::ops::RangeInclusive<usize>) -> Outcome<Parameters> {
    if lengths.contains(&bytes.len()) { Ok(Parameters::Iv(bytes.to_vec())) } else { Err(INVALID) }
}

fn pss(bytes: &[u8]) -> Outcome<Parameters> {
    let parameters = structure::<CK_RSA_PKCS_PSS_PARAMS>(bytes)?;
    Ok(Parameters::Pss { hash: MechanismKind(parameters.hashAlg), mgf: parameters.mgf, salt_length: parameters.sLen })
}

/// # Safety
/// The label is NULL or readable for its length.
unsafe fn oaep(bytes: &[u8]) -> Outcome<Parameters> {
    let parameters = structure::<CK_RSA_PKCS_OAEP_PARAMS>(bytes)?;
    // A caller without a label may leave the source at 0 (§6.1.7 has no number for "none").
    let source_is_known =
        parameters.source == CKZ_DATA_SPECIFIED || (parameters.source == 0 && parameters.ulSourceDataLen == 0);
    if !source_is_known {
        return Err(INVALID);
    }
    // SAFETY: promised by the caller.
    let label = unsafe { pointed(parameters.pSourceData.cast::<u8>(), parameters.ulSourceDataLen) }?;
    Ok(Parameters::Oaep { hash: MechanismKind(parameters.hashAlg), mgf: parameters.mgf, label })
}

fn ctr(bytes: &[u8]) -> Outcome<Parameters> {
    let parameters = structure::<CK_AES_CTR_PARAMS>(bytes)?;
    let counter_bits = u32::try_from(parameters.ulCounterBits).map_err(|_| INVALID)?;
    Ok(Parameters::Ctr { counter_bits, block: parameters.cb })
}

/// # Safety
/// Pointers in the structure are NULL or readable for their lengths.
unsafe fn gcm(bytes: &[u8]) -> Outcome<Parameters> {
    #[repr(C)]
    #[derive(Clone, Copy)]
    #[expect(non_snake_case, reason = "the members have their names in PKCS#11 2.40")]
    struct WithoutIvBits {
        pIv: *mut u8,
        ulIvLen: CK_ULONG,
        pAAD: *mut u8,
        ulAADLen: CK_ULONG,
        ulTagBits: CK_ULONG,
    }
    let parameters = if bytes.len() == GCM_BYTES_WITHOUT_IV_BITS {
        structure::<WithoutIvBits>(bytes)?
    } else {
        let CK_GCM_PARAMS { pIv, ulIvLen, pAAD, ulAADLen, ulTagBits, .. } = structure(bytes)?;
        WithoutIvBits { pIv, ulIvLen, pAAD, ulAADLen, ulTagBits }
    };
    // SAFETY: promised by the caller.
    let (iv, additional_data) =
        unsafe { (pointed(parameters.pIv, parameters.ulIvLen)?, pointed(parameters.pAAD, parameters.ulAADLen)?) };
    let tag_bits = u32::try_from(parameters.ulTagBits).map_err(|_| INVALID)?;
    // NIST SP 800-38D §5.2.1.1: an IV has at least one bit.
    if iv.is_empty() || tag_bits > 128 || !tag_bits.is_multiple_of(8) {
        return Err(INVALID);
    }
    Ok(Parameters::Gcm { iv, additional_data, tag_bits, generate_iv: false })
}

/// # Safety
/// The context is NULL or readable for its length.
unsafe fn eddsa(bytes: &[u8]) -> Outcome<Parameters> {
    let parameters = structure::<CK_EDDSA_PARAMS>(bytes)?;
    // SAFETY: promised by the caller.
    let context = unsafe { pointed(parameters.pContextData, parameters.ulContextDataLen) }?;
    Ok(Parameters::Eddsa { prehash: flag(parameters.phFlag)?, context })
}

/// # Safety
/// Pointers in the structure are NULL or readable for their lengths.
unsafe fn ecdh(bytes: &[u8]) -> Outcome<Parameters> {
    let parameters = structure::<CK_ECDH1_DERIVE_PARAMS>(bytes)?;
    // SAFETY: promised by the caller.
    let (shared_data, public_data) = unsafe {
        (
            pointed(parameters.pSharedData, parameters.ulSharedDataLen)?,
            pointed(parameters.pPublicData, parameters.ulPublicDataLen)?,
        )
    };
    Ok(Parameters::Ecdh { kdf: parameters.kdf, shared_data, public_data })
}

/// # Safety
/// Pointers in the structure are NULL or readable for their lengths.
unsafe fn hkdf(
    bytes: &[u8],
    find: &dyn Fn(CK_OBJECT_HANDLE) -> Outcome<Reference>,
    second_key: &mut Option<Reference>,
) -> Outcome<Parameters> {
    let parameters = structure::<CK_HKDF_PARAMS>(bytes)?;
    let salt = match parameters.ulSaltType {
        CKF_HKDF_SALT_NULL => HkdfSalt::Null,
        // SAFETY: promised by the caller.
        CKF_HKDF_SALT_DATA => HkdfSalt::Data(unsafe { pointed(parameters.pSalt, parameters.ulSaltLen) }?),
        CKF_HKDF_SALT_KEY => {
            let key = find(parameters.hSaltKey)?;
            let reference = key.protocol(With { sealed_objects: false, ..With::default() });
            *second_key = Some(key);
            HkdfSalt::Key(reference)
        }
        _ => return Err(INVALID),
    };
    // SAFETY: promised by the caller.
    let info = unsafe { pointed(parameters.pInfo, parameters.ulInfoLen) }?;
    Ok(Parameters::Hkdf {
        extract: flag(parameters.bExtract)?,
        expand: flag(parameters.bExpand)?,
        hash: MechanismKind(parameters.prfHashMechanism),
        salt,
        info,
    })
}

/// # Safety
/// The data is NULL or readable for its length.
unsafe fn string_data(bytes: &[u8]) -> Outcome<Parameters> {
    let parameters = structure::<CK_KEY_DERIVATION_STRING_DATA>(bytes)?;
    // SAFETY: promised by the caller.
    unsafe { pointed(parameters.pData, parameters.ulLen) }.map(Parameters::DerivationData)
}

/// # Safety
/// The data is NULL or readable for its length.
unsafe fn cbc_data(bytes: &[u8]) -> Outcome<Parameters> {
    let parameters = structure::<CK_AES_CBC_ENCRYPT_DATA_PARAMS>(bytes)?;
    // SAFETY: promised by the caller.
    let data = unsafe { pointed(parameters.pData, parameters.length) }?;
    Ok(Parameters::CbcDerivation { iv: parameters.iv.to_vec(), data })
}

fn flag(value: CK_BBOOL) -> Outcome<bool> {
    match value {
        CK_FALSE => Ok(false),
        CK_TRUE => Ok(true),
        _ => Err(INVALID),
    }
}

/// Parameters of one message (`C_EncryptMessage`, §5.9): read before, and partly written after.
pub(crate) struct GcmMessage {
    parameters: CK_GCM_MESSAGE_PARAMS,
    iv: Vec<u8>,
    generate_iv: bool,
}

/// `CKG_NO_GENERATE` and `CKG_GENERATE_RANDOM`: who makes the IV.
const NO_GENERATE: CK_ULONG = 0;

impl GcmMessage {
    /// Reads the parameters of one message.
    ///
    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID`. A fixed part of the IV is not possible: the HSM makes all of it or nothing.
    ///
    /// # Safety
    /// `pointer` is NULL, or a `CK_GCM_MESSAGE_PARAMS` whose IV and tag are NULL or readable and writable.
    pub(crate) unsafe fn read(pointer: *const u8, length: CK_ULONG) -> Outcome<Self> {
        // SAFETY: promised by the caller.
        let bytes = unsafe { pointed(pointer, length) }?;
        let parameters = structure::<CK_GCM_MESSAGE_PARAMS>(&bytes)?;
        // SAFETY: promised by the caller.
        let iv = unsafe { pointed(parameters.pIv, parameters.ulIvLen) }?;
        let generate_iv = parameters.ivGenerator != NO_GENERATE;
        let generator_fits = !generate_iv || (parameters.ulIvFixedBits == 0 && iv.len() == 12);
        if !generator_fits || parameters.ulTagBits > 128 || !parameters.ulTagBits.is_multiple_of(8) {
            return Err(INVALID);
        }
        Ok(Self { parameters, iv, generate_iv })
    }

    /// Bytes of the tag.
    pub(crate) fn tag_bytes(&self) -> usize {
        usize::try_from(self.parameters.ulTagBits / 8).unwrap_or(usize::MAX)
    }

    /// The mechanism for one encryption or decryption; only an encryption may have its IV made.
    pub(crate) fn mechanism(&self, additional_data: Vec<u8>, encrypting: bool) -> Outcome<ReadMechanism> {
        let generate_iv = self.generate_iv && encrypting;
        let iv = if generate_iv { Vec::new() } else { self.iv.clone() };
        let tag_bits = u32::try_from(self.parameters.ulTagBits).map_err(|_| INVALID)?;
        let parameters = Parameters::Gcm { iv, additional_data, tag_bits, generate_iv };
        Ok(ReadMechanism::new(Mechanism { kind: MechanismKind::AES_GCM, parameters }))
    }

    /// The tag that the caller gives for a decryption.
    ///
    /// # Safety
    /// As for [`Self::read`].
    pub(crate) unsafe fn tag(&self) -> Outcome<Vec<u8>> {
        // SAFETY: promised by the caller.
        unsafe { pointed(self.parameters.pTag, self.parameters.ulTagBits / 8) }
    }

    /// Tells the caller the tag, and the IV that the HSM made.
    ///
    /// # Safety
    /// As for [`Self::read`].
    pub(crate) unsafe fn write(&self, iv: &[u8], tag: &[u8]) -> Outcome {
        if self.generate_iv && iv.len() == self.iv.len() {
            // SAFETY: promised by the caller; the place has the IV's length.
            unsafe { memory::write_bytes(self.parameters.pIv, iv) }?;
        }
        if tag.len() != self.tag_bytes() {
            return refuse(CKR_DEVICE_ERROR);
        }
        // SAFETY: promised by the caller; the place has the tag's length.
        unsafe { memory::write_bytes(self.parameters.pTag, tag) }
    }
}

#[cfg(test)]
#[path = "parameters_tests.rs"]
mod tests;
