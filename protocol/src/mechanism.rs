//! Mechanisms: their numbers in PKCS#11 and their parameters, checked and free of C structures.

use serde::{Deserialize, Serialize};

use crate::session::SESSION_ID_BYTES;

/// A `CKM_…` number. Any number can be named; whether it exists is for `hsm-crypto`'s table to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MechanismKind(pub u64);

macro_rules! mechanisms {
    ($($name:ident = $number:literal;)+) => {
        /// Names and numbers are those of PKCS#11 3.2 (`CKM_…`).
        #[expect(missing_docs, reason = "each is the CKM_ constant of the same name, documented in PKCS#11 3.2 §6")]
        impl MechanismKind {
            $(pub const $name: Self = Self($number);)+

            /// The name without `CKM_`, for messages.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)+ _ => None }
            }
        }
    };
}

mechanisms! {
    RSA_PKCS_KEY_PAIR_GEN = 0x0000;
    RSA_PKCS = 0x0001;
    RSA_X_509 = 0x0003;
    SHA1_RSA_PKCS = 0x0006;
    RSA_PKCS_OAEP = 0x0009;
    RSA_X9_31_KEY_PAIR_GEN = 0x000A;
    RSA_PKCS_PSS = 0x000D;
    SHA1_RSA_PKCS_PSS = 0x000E;
    SHA256_RSA_PKCS = 0x0040;
    SHA384_RSA_PKCS = 0x0041;
    SHA512_RSA_PKCS = 0x0042;
    SHA256_RSA_PKCS_PSS = 0x0043;
    SHA384_RSA_PKCS_PSS = 0x0044;
    SHA512_RSA_PKCS_PSS = 0x0045;
    SHA224_RSA_PKCS = 0x0046;
    SHA224_RSA_PKCS_PSS = 0x0047;
    SHA3_256_RSA_PKCS = 0x0060;
    SHA3_384_RSA_PKCS = 0x0061;
    SHA3_512_RSA_PKCS = 0x0062;
    SHA3_256_RSA_PKCS_PSS = 0x0063;
    SHA3_384_RSA_PKCS_PSS = 0x0064;
    SHA3_512_RSA_PKCS_PSS = 0x0065;
    SHA3_224_RSA_PKCS = 0x0066;
    SHA3_224_RSA_PKCS_PSS = 0x0067;
    SHA_1 = 0x0220;
    SHA_1_HMAC = 0x0221;
    SHA_1_HMAC_GENERAL = 0x0222;
    SHA256 = 0x0250;
    SHA256_HMAC = 0x0251;
    SHA256_HMAC_GENERAL = 0x0252;
    SHA224 = 0x0255;
    SHA224_HMAC = 0x0256;
    SHA224_HMAC_GENERAL = 0x0257;
    SHA384 = 0x0260;
    SHA384_HMAC = 0x0261;
    SHA384_HMAC_GENERAL = 0x0262;
    SHA512 = 0x0270;
    SHA512_HMAC = 0x0271;
    SHA512_HMAC_GENERAL = 0x0272;
    SHA3_256 = 0x02B0;
    SHA3_256_HMAC = 0x02B1;
    SHA3_256_HMAC_GENERAL = 0x02B2;
    SHA3_256_KEY_GEN = 0x02B3;
    SHA3_224 = 0x02B5;
    SHA3_224_HMAC = 0x02B6;
    SHA3_224_HMAC_GENERAL = 0x02B7;
    SHA3_224_KEY_GEN = 0x02B8;
    SHA3_384 = 0x02C0;
    SHA3_384_HMAC = 0x02C1;
    SHA3_384_HMAC_GENERAL = 0x02C2;
    SHA3_384_KEY_GEN = 0x02C3;
    SHA3_512 = 0x02D0;
    SHA3_512_HMAC = 0x02D1;
    SHA3_512_HMAC_GENERAL = 0x02D2;
    SHA3_512_KEY_GEN = 0x02D3;
    GENERIC_SECRET_KEY_GEN = 0x0350;
    CONCATENATE_BASE_AND_KEY = 0x0360;
    CONCATENATE_BASE_AND_DATA = 0x0362;
    CONCATENATE_DATA_AND_BASE = 0x0363;
    XOR_BASE_AND_DATA = 0x0364;
    SHA1_KEY_DERIVATION = 0x0392;
    SHA256_KEY_DERIVATION = 0x0393;
    SHA384_KEY_DERIVATION = 0x0394;
    SHA512_KEY_DERIVATION = 0x0395;
    SHA224_KEY_DERIVATION = 0x0396;
    EC_KEY_PAIR_GEN = 0x1040;
    ECDSA = 0x1041;
    ECDSA_SHA1 = 0x1042;
    ECDSA_SHA224 = 0x1043;
    ECDSA_SHA256 = 0x1044;
    ECDSA_SHA384 = 0x1045;
    ECDSA_SHA512 = 0x1046;
    ECDSA_SHA3_224 = 0x1047;
    ECDSA_SHA3_256 = 0x1048;
    ECDSA_SHA3_384 = 0x1049;
    ECDSA_SHA3_512 = 0x104A;
    ECDH1_DERIVE = 0x1050;
    ECDH1_COFACTOR_DERIVE = 0x1051;
    EC_EDWARDS_KEY_PAIR_GEN = 0x1055;
    EC_MONTGOMERY_KEY_PAIR_GEN = 0x1056;
    EDDSA = 0x1057;
    AES_KEY_GEN = 0x1080;
    AES_ECB = 0x1081;
    AES_CBC = 0x1082;
    AES_MAC = 0x1083;
    AES_CBC_PAD = 0x1085;
    AES_CTR = 0x1086;
    AES_GCM = 0x1087;
    AES_CMAC_GENERAL = 0x108B;
    AES_CMAC = 0x108A;
    AES_ECB_ENCRYPT_DATA = 0x1104;
    AES_CBC_ENCRYPT_DATA = 0x1105;
    AES_GMAC = 0x108E;
    AES_KEY_WRAP = 0x2109;
    AES_KEY_WRAP_PAD = 0x210A;
    AES_KEY_WRAP_KWP = 0x210B;
    AES_KEY_WRAP_PKCS7 = 0x210C;
    SHA_1_KEY_GEN = 0x4003;
    SHA224_KEY_GEN = 0x4004;
    SHA256_KEY_GEN = 0x4005;
    SHA384_KEY_GEN = 0x4006;
    SHA512_KEY_GEN = 0x4007;
    HKDF_DERIVE = 0x402A;
    HKDF_DATA = 0x402B;
    HKDF_KEY_GEN = 0x402C;
}

/// Numbers of `CKG_MGF1_…` (PKCS#11 3.2 §6.1.7).
pub mod mgf {
    /// `CKG_MGF1_SHA1`.
    pub const SHA1: u64 = 1;
    /// `CKG_MGF1_SHA256`.
    pub const SHA256: u64 = 2;
    /// `CKG_MGF1_SHA384`.
    pub const SHA384: u64 = 3;
    /// `CKG_MGF1_SHA512`.
    pub const SHA512: u64 = 4;
    /// `CKG_MGF1_SHA224`.
    pub const SHA224: u64 = 5;
    /// `CKG_MGF1_SHA3_224`.
    pub const SHA3_224: u64 = 6;
    /// `CKG_MGF1_SHA3_256`.
    pub const SHA3_256: u64 = 7;
    /// `CKG_MGF1_SHA3_384`.
    pub const SHA3_384: u64 = 8;
    /// `CKG_MGF1_SHA3_512`.
    pub const SHA3_512: u64 = 9;
}

/// Numbers of `CKD_…` (PKCS#11 3.2 §6.3.17).
pub mod kdf {
    /// `CKD_NULL`: the shared secret as it is.
    pub const NULL: u64 = 1;
    /// `CKD_SHA1_KDF` (ANSI X9.63).
    pub const SHA1: u64 = 2;
    /// `CKD_SHA224_KDF`.
    pub const SHA224: u64 = 5;
    /// `CKD_SHA256_KDF`.
    pub const SHA256: u64 = 6;
    /// `CKD_SHA384_KDF`.
    pub const SHA384: u64 = 7;
    /// `CKD_SHA512_KDF`.
    pub const SHA512: u64 = 8;
}

/// A mechanism with its parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct Mechanism {
    /// Which one.
    pub kind: MechanismKind,
    /// Its parameters.
    pub parameters: Parameters,
}

impl Mechanism {
    /// A mechanism that takes no parameters.
    pub fn plain(kind: MechanismKind) -> Self {
        Self { kind, parameters: Parameters::None }
    }
}

/// Parameters of a mechanism. What each C structure of PKCS#11 becomes; lengths are in bytes unless the name says bits.
#[derive(Clone, PartialEq, Eq)]
pub enum Parameters {
    /// No parameters.
    None,
    /// An initialization vector, alone.
    Iv(Vec<u8>),
    /// `CK_GCM_PARAMS`.
    Gcm {
        /// Initialization vector; empty when the HSM is to make it.
        iv: Vec<u8>,
        /// Additional authenticated data.
        additional_data: Vec<u8>,
        /// Length of the tag in bits.
        tag_bits: u32,
        /// The HSM makes an IV of 12 bytes and returns it.
        generate_iv: bool,
    },
    /// `CK_AES_CTR_PARAMS`.
    Ctr {
        /// How many of the low bits of the block count.
        counter_bits: u32,
        /// The first counter block.
        block: [u8; 16],
    },
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    Pss {
        /// Hash of the message.
        hash: MechanismKind,
        /// `CKG_` number, see [`mgf`].
        mgf: u64,
        /// Length of the salt.
        salt_length: u64,
    },
    /// `CK_RSA_PKCS_OAEP_PARAMS`.
    Oaep {
        /// Hash of the label.
        hash: MechanismKind,
        /// `CKG_` number, see [`mgf`].
        mgf: u64,
        /// The label (encoding parameter).
        label: Vec<u8>,
    },
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh {
        /// `CKD_` number, see [`kdf`].
        kdf: u64,
        /// Shared info of the KDF.
        shared_data: Vec<u8>,
        /// The other party's point, raw or as a DER OCTET STRING.
        public_data: Vec<u8>,
    },
    /// `CK_HKDF_PARAMS`.
    Hkdf {
        /// Whether to extract.
        extract: bool,
        /// Whether to expand.
        expand: bool,
        /// The hash (not the HMAC).
        hash: MechanismKind,
        /// Where the salt comes from.
        salt: HkdfSalt,
        /// Context and application information.
        info: Vec<u8>,
    },
    /// `CK_EDDSA_PARAMS`; absent parameters mean pure EdDSA and are [`Parameters::None`].
    Eddsa {
        /// Ed25519ph or Ed448ph.
        prehash: bool,
        /// Context data, at most 255 bytes.
        context: Vec<u8>,
    },
    /// `CK_MAC_GENERAL_PARAMS`: length of the MAC.
    OutputLength(u64),
    /// `CK_KEY_DERIVATION_STRING_DATA`.
    DerivationData(Vec<u8>),
    /// `CK_AES_CBC_ENCRYPT_DATA_PARAMS`.
    CbcDerivation {
        /// Initialization vector.
        iv: Vec<u8>,
        /// Data to encrypt.
        data: Vec<u8>,
    },
    /// `CK_OBJECT_HANDLE` of a second key.
    OtherKey(ObjectReference),
}

/// Salt of HKDF.
#[derive(Clone, PartialEq, Eq)]
pub enum HkdfSalt {
    /// `CKF_HKDF_SALT_NULL`: zeros of the hash's length.
    Null,
    /// `CKF_HKDF_SALT_DATA`.
    Data(Vec<u8>),
    /// `CKF_HKDF_SALT_KEY`.
    Key(ObjectReference),
}

/// Name of a session object: random, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionObjectId(pub [u8; SESSION_ID_BYTES]);

/// Names an object to an HSM.
#[derive(Clone, PartialEq, Eq)]
pub enum ObjectReference {
    /// A token object by its handle: the same number on every HSM of the cluster, never used twice.
    Token(u64),
    /// A session object.
    Session {
        /// Its name.
        id: SessionObjectId,
        /// The object itself, sealed by an HSM; empty when the HSM should have it.
        sealed: Vec<u8>,
        /// The version that is meant: an HSM that has an older one must be shown this one; 0 = any.
        version: u32,
    },
}
