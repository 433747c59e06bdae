//! RSA: keys that stay parsed, and every padding.

use aws_lc_sys as c;
use zeroize::Zeroizing;

use super::big::{Big, Factors, bytes_of};
use super::digest::Hash;
use super::owned::Owned;
use super::{Failed, check, failed, int};
use crate::secret::SecretBytes;

/// The numbers of an RSA private key, big-endian without leading zeros.
pub(crate) struct RsaNumbers {
    pub(crate) n: SecretBytes,
    pub(crate) e: SecretBytes,
    pub(crate) d: SecretBytes,
    pub(crate) p: SecretBytes,
    pub(crate) q: SecretBytes,
    pub(crate) dp: SecretBytes,
    pub(crate) dq: SecretBytes,
    pub(crate) qi: SecretBytes,
}

/// An RSA key, private or public. Montgomery values and blinding factors stay with it. Works for many threads at once.
pub(crate) struct Rsa {
    key: Owned<c::EVP_PKEY>,
    bytes: usize,
}

// SAFETY: operations on one key from many threads are allowed; what they change (blinding) is behind the library's locks
// (openssl/rsa.h: "An RSA object may be used concurrently by functions that do not mutate it").
unsafe impl Sync for Rsa {}

/// Bits of public exponents up to which the library takes a key without being told that it is large.
const USUAL_EXPONENT_BITS: u32 = 33;

impl Rsa {
    /// A new random pair. The exponent is odd, 3 or more, and below 2^32.
    pub(crate) fn generate(bits: u32, exponent: &[u8]) -> Result<Self, Failed> {
        let exponent = Big::from_bytes(exponent)?;
        let bits = int(bits as usize)?;
        // SAFETY: the key is fresh; the exponent is live; there is no callback.
        let rsa = unsafe {
            let rsa = Owned::take(c::RSA_new())?;
            check(c::RSA_generate_key_ex(rsa.pointer(), bits, exponent.pointer(), std::ptr::null_mut()))?;
            rsa
        };
        Self::adopt(rsa)
    }

    /// The public key of a modulus and an exponent.
    pub(crate) fn from_public(n: &[u8], e: &[u8]) -> Result<Self, Failed> {
        let (n, e) = (Big::from_bytes(n)?, Big::from_bytes(e)?);
        // SAFETY: both numbers are live and are copied; the object is fresh.
        let rsa = unsafe {
            Owned::take(if e.bits() <= USUAL_EXPONENT_BITS {
                c::RSA_new_public_key(n.pointer(), e.pointer())
            } else {
                c::RSA_new_public_key_large_e(n.pointer(), e.pointer())
            })
        }?;
        Self::adopt(rsa)
    }

    /// The private key of all its numbers, which must fit each other.
    pub(crate) fn from_numbers(numbers: &RsaNumbers) -> Result<Self, Failed> {
        let factors = Factors {
            p: Big::from_bytes(numbers.p.expose())?,
            q: Big::from_bytes(numbers.q.expose())?,
            dp: Big::from_bytes(numbers.dp.expose())?,
            dq: Big::from_bytes(numbers.dq.expose())?,
            qi: Big::from_bytes(numbers.qi.expose())?,
        };
        Self::from_parts(
            &Big::from_bytes(numbers.n.expose())?,
            &Big::from_bytes(numbers.e.expose())?,
            &Big::from_bytes(numbers.d.expose())?,
            &factors,
        )
    }

    /// The private key of modulus and both exponents; the primes are computed, or taken when they are given.
    pub(crate) fn from_exponents(n: &[u8], e: &[u8], d: &[u8], primes: Option<(&[u8], &[u8])>) -> Result<Self, Failed> {
        let (n, e, d) = (Big::from_bytes(n)?, Big::from_bytes(e)?, Big::from_bytes(d)?);
        let factors = match primes {
            Some((p, q)) => Factors::from_primes(Big::from_bytes(p)?, Big::from_bytes(q)?, &d)?,
            None => Factors::recover(&n, &e, &d)?,
        };
        Self::from_parts(&n, &e, &d, &factors)
    }

    fn from_parts(n: &Big, e: &Big, d: &Big, factors: &Factors) -> Result<Self, Failed> {
        let Factors { p, q, dp, dq, qi } = factors;
        let make =
            if e.bits() <= USUAL_EXPONENT_BITS { c::RSA_new_private_key } else { c::RSA_new_private_key_large_e };
        // SAFETY: all numbers are live and are copied; the object is fresh. The constructor checks that they fit.
        let rsa = unsafe {
            Owned::take(make(
                n.pointer(),
                e.pointer(),
                d.pointer(),
                p.pointer(),
                q.pointer(),
                dp.pointer(),
                dq.pointer(),
                qi.pointer(),
            ))
        }?;
        Self::adopt(rsa)
    }

    fn adopt(rsa: Owned<c::RSA>) -> Result<Self, Failed> {
        // SAFETY: both objects are live; `set1` takes a reference of its own.
        let key = unsafe {
            let key = Owned::take(c::EVP_PKEY_new())?;
            check(c::EVP_PKEY_set1_RSA(key.pointer(), rsa.pointer()))?;
            key
        };
        Self::from_key(key)
    }

    /// Takes a key of the library, if it is an RSA key.
    pub(super) fn from_key(key: Owned<c::EVP_PKEY>) -> Result<Self, Failed> {
        // SAFETY: the key is live; the RSA object belongs to it.
        let bytes = unsafe {
            let rsa = c::EVP_PKEY_get0_RSA(key.pointer());
            if rsa.is_null() {
                return Err(failed());
            }
            c::RSA_size(rsa) as usize
        };
        Ok(Self { key, bytes })
    }

    /// Bytes of the modulus, and of every signature and ciphertext.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bits of the modulus.
    pub(crate) fn bits(&self) -> u32 {
        // SAFETY: the key is live.
        unsafe { c::RSA_bits(self.pointer()) }
    }

    /// Modulus and public exponent.
    pub(crate) fn public_numbers(&self) -> Result<(Vec<u8>, Vec<u8>), Failed> {
        // SAFETY: the key is live, and the numbers belong to it.
        unsafe {
            let n = bytes_of(c::RSA_get0_n(self.pointer()))?;
            let e = bytes_of(c::RSA_get0_e(self.pointer()))?;
            Ok((n.expose().to_vec(), e.expose().to_vec()))
        }
    }

    /// All numbers of a private key.
    pub(crate) fn numbers(&self) -> Result<RsaNumbers, Failed> {
        let rsa = self.pointer();
        // SAFETY: the key is live, and the numbers belong to it; a number that a key lacks is null and refused.
        unsafe {
            let number = |number: *const c::BIGNUM| if number.is_null() { Err(failed()) } else { bytes_of(number) };
            Ok(RsaNumbers {
                n: number(c::RSA_get0_n(rsa))?,
                e: number(c::RSA_get0_e(rsa))?,
                d: number(c::RSA_get0_d(rsa))?,
                p: number(c::RSA_get0_p(rsa))?,
                q: number(c::RSA_get0_q(rsa))?,
                dp: number(c::RSA_get0_dmp1(rsa))?,
                dq: number(c::RSA_get0_dmq1(rsa))?,
                qi: number(c::RSA_get0_iqmp(rsa))?,
            })
        }
    }

    /// The private operation on a padded block (PKCS#1 v1.5 block type 1), or on a block as long as the modulus.
    pub(crate) fn sign(&self, padding: Padding, data: &[u8]) -> Result<Vec<u8>, Failed> {
        let (result, output) = self.transform(c::RSA_sign_raw, padding, data);
        result?;
        Ok(output.to_vec())
    }

    /// Undoes [`Rsa::sign`] with the public key.
    pub(crate) fn recover(&self, padding: Padding, signature: &[u8]) -> Result<Vec<u8>, Failed> {
        let (result, output) = self.transform(c::RSA_verify_raw, padding, signature);
        Ok(output[..result?].to_vec())
    }

    /// Encrypts with the public key (PKCS#1 v1.5 block type 2 or none).
    pub(crate) fn encrypt(&self, padding: Padding, data: &[u8]) -> Result<Vec<u8>, Failed> {
        let (result, output) = self.transform(c::RSA_encrypt, padding, data);
        result?;
        Ok(output.to_vec())
    }

    /// Decrypts with the private key. The padding is looked at in constant time up to the one answer whether it fits.
    pub(crate) fn decrypt(&self, padding: Padding, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let (result, output) = self.transform(c::RSA_decrypt, padding, data);
        let length = result?;
        Ok(Zeroizing::new(output[..length].to_vec()))
    }

    fn transform(
        &self,
        function: Transform,
        padding: Padding,
        data: &[u8],
    ) -> (Result<usize, Failed>, Zeroizing<Vec<u8>>) {
        let mut output = Zeroizing::new(vec![0; self.bytes]);
        let mut length = 0;
        let padding = match padding {
            Padding::Pkcs1 => c::RSA_PKCS1_PADDING,
            Padding::None => c::RSA_NO_PADDING,
        };
        // SAFETY: the output has the modulus's length, which is passed; the data is live and only read.
        let status = unsafe {
            function(
                self.pointer(),
                &raw mut length,
                output.as_mut_ptr(),
                output.len(),
                data.as_ptr(),
                data.len(),
                padding,
            )
        };
        (check(status).map(|()| length), output)
    }

    /// PSS over a digest, whose length must be that of `hash` (RFC 8017 §9.1.1).
    pub(crate) fn sign_pss(&self, hash: Hash, mgf: Hash, salt: usize, digest: &[u8]) -> Result<Vec<u8>, Failed> {
        if digest.len() != hash.size() {
            return Err(Failed);
        }
        let mut encoded = vec![0; self.bytes];
        // SAFETY: the encoded message has the modulus's length and the digest that of its hash, as demanded.
        check(unsafe {
            c::RSA_padding_add_PKCS1_PSS_mgf1(
                self.pointer(),
                encoded.as_mut_ptr(),
                digest.as_ptr(),
                hash.descriptor(),
                mgf.descriptor(),
                int(salt)?,
            )
        })?;
        self.sign(Padding::None, &encoded)
    }

    /// Whether a PSS signature with exactly that length of salt is right.
    pub(crate) fn verify_pss(&self, hash: Hash, mgf: Hash, salt: usize, digest: &[u8], signature: &[u8]) -> bool {
        let (Ok(encoded), Ok(salt)) = (self.recover(Padding::None, signature), int(salt)) else { return false };
        if digest.len() != hash.size() || encoded.len() != self.bytes {
            return false;
        }
        // SAFETY: the encoded message has the modulus's length and the digest that of its hash, as demanded.
        check(unsafe {
            c::RSA_verify_PKCS1_PSS_mgf1(
                self.pointer(),
                digest.as_ptr(),
                hash.descriptor(),
                mgf.descriptor(),
                encoded.as_ptr(),
                salt,
            )
        })
        .is_ok()
    }

    /// Encrypts with OAEP (RFC 8017 §7.1.1).
    pub(crate) fn encrypt_oaep(&self, hash: Hash, mgf: Hash, label: &[u8], data: &[u8]) -> Result<Vec<u8>, Failed> {
        if data.len() + 2 * hash.size() + 2 > self.bytes {
            return Err(Failed);
        }
        let mut padded = Zeroizing::new(vec![0; self.bytes]);
        // SAFETY: the output has the length that is passed; the other slices are live and only read.
        check(unsafe {
            c::RSA_padding_add_PKCS1_OAEP_mgf1(
                padded.as_mut_ptr(),
                padded.len(),
                data.as_ptr(),
                data.len(),
                label.as_ptr(),
                label.len(),
                hash.descriptor(),
                mgf.descriptor(),
            )
        })?;
        self.encrypt(Padding::None, &padded)
    }

    /// Decrypts with OAEP, in constant time up to the one answer whether the padding fits (Manger's attack).
    pub(crate) fn decrypt_oaep(
        &self,
        hash: Hash,
        mgf: Hash,
        label: &[u8],
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let mut output = Zeroizing::new(vec![0; self.bytes]);
        let mut length = output.len();
        // SAFETY: the context is fresh and lives to the end of the block; the label is a copy of the library's own heap,
        // which `set0` takes over when it succeeds; the output has the length that is passed.
        unsafe {
            let context = Owned::take(c::EVP_PKEY_CTX_new(self.key.pointer(), std::ptr::null_mut()))?;
            check(c::EVP_PKEY_decrypt_init(context.pointer()))?;
            check(c::EVP_PKEY_CTX_set_rsa_padding(context.pointer(), c::RSA_PKCS1_OAEP_PADDING))?;
            check(c::EVP_PKEY_CTX_set_rsa_oaep_md(context.pointer(), hash.descriptor()))?;
            check(c::EVP_PKEY_CTX_set_rsa_mgf1_md(context.pointer(), mgf.descriptor()))?;
            if !label.is_empty() {
                let copy = c::OPENSSL_memdup(label.as_ptr().cast(), label.len());
                if copy.is_null() {
                    return Err(failed());
                }
                if c::EVP_PKEY_CTX_set0_rsa_oaep_label(context.pointer(), copy.cast(), label.len()) != 1 {
                    c::OPENSSL_free(copy);
                    return Err(failed());
                }
            }
            check(c::EVP_PKEY_decrypt(
                context.pointer(),
                output.as_mut_ptr(),
                &raw mut length,
                data.as_ptr(),
                data.len(),
            ))?;
        }
        output.truncate(length);
        Ok(output)
    }

    /// The library's key, which the caller must not change.
    pub(super) fn key(&self) -> *mut c::EVP_PKEY {
        self.key.pointer()
    }

    fn pointer(&self) -> *mut c::RSA {
        // SAFETY: the key is live and an RSA key, which the constructor made sure of; the object belongs to it.
        unsafe { c::EVP_PKEY_get0_RSA(self.key.pointer()) }
    }
}

/// How a block is padded to the length of the modulus.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// PKCS#1 v1.5.
    Pkcs1,
    /// Not at all: the data has the modulus's length.
    None,
}

type Transform = unsafe extern "C" fn(*mut c::RSA, *mut usize, *mut u8, usize, *const u8, usize, i32) -> i32;
