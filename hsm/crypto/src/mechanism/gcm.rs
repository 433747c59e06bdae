//! AES-GCM and GMAC (SP 800-38D; PKCS#11 3.2 §6.13.5, §6.13.7).

use hsm_protocol::{MechanismKind as M, Parameters};
use zeroize::Zeroizing;

use super::gather::append;
use super::hmac::matches;
use super::{Call, Encrypted, Family, Outcome, Transform};
use crate::fault::CryptoFault;
use crate::key::AesKey;
use crate::secret::SecretBytes;
use crate::wide::{Cipher, Direction, Failed, Gcm, Mode};

/// Bytes of an IV that the HSM makes: SP 800-38D §8.2.2, random construction.
const MADE_IV: usize = 12;

/// Bytes of the shortest tag that mode FIPS takes; shorter ones need limits on their use (SP 800-38D Appendix C).
const FIPS_TAG: usize = 12;

/// `CKM_AES_GCM`.
pub(crate) struct AesGcm;

/// `CKM_AES_GMAC`.
pub(crate) struct AesGmac;

struct GcmParameters<'a> {
    iv: &'a [u8],
    additional: &'a [u8],
    tag: usize,
    generate: bool,
}

impl Family for AesGcm {
    fn kinds(&self) -> &'static [M] {
        &[M::AES_GCM]
    }

    fn transform(&self, call: &Call<'_>, direction: Direction) -> Outcome<Option<Box<dyn Transform>>> {
        let parameters = parameters(call)?;
        let key = call.key.aes()?;
        Ok(Some(match direction {
            Direction::Encrypt => {
                let iv = encryption_iv(call, &parameters)?;
                let mut cipher = Cipher::new(Mode::Gcm, key.bytes.expose(), &iv, direction)?;
                cipher.additional_data(parameters.additional)?;
                let made_iv = parameters.generate.then_some(iv);
                Box::new(Sealing { cipher, tag: parameters.tag, made_iv })
            }
            Direction::Decrypt => Box::new(Opening {
                key: SecretBytes::copy_of(key.bytes.expose()),
                iv: decryption_iv(&parameters)?.to_vec(),
                additional: parameters.additional.to_vec(),
                tag: parameters.tag,
                held: Zeroizing::default(),
            }),
        }))
    }

    fn encrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Encrypted> {
        let parameters = parameters(call)?;
        let iv = encryption_iv(call, &parameters)?;
        let mut output = Vec::with_capacity(data.len() + Gcm::TAG);
        call.key.aes()?.gcm.seal(&iv, parameters.additional, data, &mut output)?;
        output.truncate(data.len() + parameters.tag);
        Ok(Encrypted { data: output, iv: parameters.generate.then_some(iv) })
    }

    fn decrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let parameters = parameters(call)?;
        let iv = decryption_iv(&parameters)?;
        open(call.key.aes()?, parameters.tag, iv, parameters.additional, data)
    }
}

/// Opens with the key's own context when the tag is whole, else with one made for the tag's length.
fn open(key: &AesKey, tag: usize, iv: &[u8], additional: &[u8], data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
    if data.len() < tag {
        return Err(CryptoFault::EncryptedLength);
    }
    let opened = if tag == Gcm::TAG {
        key.gcm.open(iv, additional, data)
    } else {
        Gcm::new(key.bytes.expose(), tag)?.open(iv, additional, data)
    };
    opened.map_err(|Failed| CryptoFault::EncryptedInvalid)
}

fn parameters<'a>(call: &Call<'a>) -> Outcome<GcmParameters<'a>> {
    let Parameters::Gcm { iv, additional_data, tag_bits, generate_iv } = &call.mechanism.parameters else {
        return Err(CryptoFault::MechanismParameters);
    };
    // SP 800-38D §5.2.1.2.
    let tag = match tag_bits {
        32 | 64 | 96 | 104 | 112 | 120 | 128 => *tag_bits as usize / 8,
        _ => return Err(CryptoFault::MechanismParameters),
    };
    if call.fips && tag < FIPS_TAG {
        return Err(CryptoFault::FipsRefused);
    }
    Ok(GcmParameters { iv, additional: additional_data, tag, generate: *generate_iv })
}

/// The IV of an encryption. In mode FIPS the HSM makes it, always (SP 800-38D §8.2, FIPS 140-3 IG C.H).
fn encryption_iv(call: &Call<'_>, parameters: &GcmParameters<'_>) -> Outcome<Vec<u8>> {
    if parameters.generate {
        return Ok(call.module.random_bytes::<MADE_IV>()?.to_vec());
    }
    if call.fips {
        return Err(CryptoFault::FipsRefused);
    }
    decryption_iv(parameters).map(<[u8]>::to_vec)
}

fn decryption_iv<'a>(parameters: &GcmParameters<'a>) -> Outcome<&'a [u8]> {
    if parameters.iv.is_empty() { Err(CryptoFault::MechanismParameters) } else { Ok(parameters.iv) }
}

/// Encryption in parts.
struct Sealing {
    cipher: Cipher,
    tag: usize,
    made_iv: Option<Vec<u8>>,
}

impl Transform for Sealing {
    fn update(&mut self, data: &[u8], output: &mut Vec<u8>) -> Outcome<()> {
        Ok(self.cipher.update(data, output)?)
    }

    fn finish(&mut self, output: &mut Vec<u8>) -> Outcome<()> {
        self.cipher.finish()?;
        output.extend_from_slice(&self.cipher.tag()?[..self.tag]);
        Ok(())
    }

    fn iv(&self) -> Option<&[u8]> {
        self.made_iv.as_deref()
    }
}

/// Decryption in parts: holds everything until the tag was checked, and gives out nothing before.
struct Opening {
    key: SecretBytes,
    iv: Vec<u8>,
    additional: Vec<u8>,
    tag: usize,
    held: Zeroizing<Vec<u8>>,
}

impl Transform for Opening {
    fn update(&mut self, data: &[u8], _output: &mut Vec<u8>) -> Outcome<()> {
        append(&mut self.held, data)
    }

    fn finish(&mut self, output: &mut Vec<u8>) -> Outcome<()> {
        if self.held.len() < self.tag {
            return Err(CryptoFault::EncryptedLength);
        }
        let gcm = Gcm::new(self.key.expose(), self.tag)?;
        let opened =
            gcm.open(&self.iv, &self.additional, &self.held).map_err(|Failed| CryptoFault::EncryptedInvalid)?;
        output.extend_from_slice(&opened);
        Ok(())
    }
}

impl Family for AesGmac {
    fn kinds(&self) -> &'static [M] {
        &[M::AES_GMAC]
    }

    fn sign(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let Parameters::Iv(iv) = &call.mechanism.parameters else { return Err(CryptoFault::MechanismParameters) };
        if iv.is_empty() {
            return Err(CryptoFault::MechanismParameters);
        }
        let mut tag = Vec::with_capacity(Gcm::TAG);
        call.key.aes()?.gcm.seal(iv, data, &[], &mut tag)?;
        Ok(tag)
    }

    fn verify(&self, call: &Call<'_>, data: &[u8], signature: &[u8]) -> Outcome<()> {
        matches(&self.sign(call, data)?, signature)
    }
}
