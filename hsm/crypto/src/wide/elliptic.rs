//! Elliptic curves in Weierstrass form: keys, ECDSA over digests of any length, ECDH.

use aws_lc_sys as c;

use super::big::{Big, padded_bytes_of};
use super::owned::Owned;
use super::{Failed, check, failed};
use crate::secret::SecretBytes;

/// A curve of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedCurve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
    /// SEC 2 secp256k1: for the encoding of keys only; `k256` computes on it, seven times faster.
    Secp256k1,
}

impl NamedCurve {
    const ALL: [Self; 4] = [Self::P256, Self::P384, Self::P521, Self::Secp256k1];

    /// Bytes of a coordinate, and of a scalar.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::P256 | Self::Secp256k1 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn number(self) -> i32 {
        match self {
            Self::P256 => c::NID_X9_62_prime256v1,
            Self::P384 => c::NID_secp384r1,
            Self::P521 => c::NID_secp521r1,
            Self::Secp256k1 => c::NID_secp256k1,
        }
    }
}

/// An EC key, private or public, kept parsed. Works for many threads at once.
pub(crate) struct EcKey {
    key: Owned<c::EC_KEY>,
    curve: NamedCurve,
}

// SAFETY: signing, verifying, ECDH and the getters take the key as const (openssl/ec_key.h: "EC_KEY objects may be used
// concurrently as long as no thread mutates them"); nothing here changes a key after it was made.
unsafe impl Sync for EcKey {}

impl EcKey {
    /// A new random pair.
    pub(crate) fn generate(curve: NamedCurve) -> Result<Self, Failed> {
        let key = Self::empty(curve)?;
        // SAFETY: the key is live and has its group; nobody else sees it yet.
        check(unsafe { c::EC_KEY_generate_key(key.pointer()) })?;
        Ok(Self { key, curve })
    }

    /// The pair of a scalar (big-endian, any length), whose public key is computed. Fails when it is not in [1, n - 1].
    pub(crate) fn from_scalar(curve: NamedCurve, scalar: &[u8]) -> Result<Self, Failed> {
        let key = Self::empty(curve)?;
        let number = Big::from_bytes(scalar)?;
        // SAFETY: key, group and number are live; the point is made for the same group; the setters copy.
        unsafe {
            check(c::EC_KEY_set_private_key(key.pointer(), number.pointer()))?;
            let group = c::EC_KEY_get0_group(key.pointer());
            let point = Owned::take(c::EC_POINT_new(group))?;
            let null = std::ptr::null();
            check(c::EC_POINT_mul(group, point.pointer(), number.pointer(), null, null.cast(), std::ptr::null_mut()))?;
            check(c::EC_KEY_set_public_key(key.pointer(), point.pointer()))?;
            check(c::EC_KEY_check_key(key.pointer()))?;
        }
        Ok(Self { key, curve })
    }

    /// The public key of a point (SEC 1 §2.3.3, compressed or not). Fails when it is not on the curve.
    pub(crate) fn from_point(curve: NamedCurve, point: &[u8]) -> Result<Self, Failed> {
        let key = Self::empty(curve)?;
        let point = Self::read_point(&key, point)?;
        // SAFETY: key and point are live and of one group; the setter copies.
        unsafe {
            check(c::EC_KEY_set_public_key(key.pointer(), point.pointer()))?;
            check(c::EC_KEY_check_key(key.pointer()))?;
        }
        Ok(Self { key, curve })
    }

    /// Takes a key of the library, if its curve is one of ours.
    pub(super) fn adopt(key: Owned<c::EC_KEY>) -> Result<Self, Failed> {
        // SAFETY: the key is live; a key without group has a null one.
        let number = unsafe {
            let group = c::EC_KEY_get0_group(key.pointer());
            if group.is_null() {
                return Err(failed());
            }
            check(c::EC_KEY_check_key(key.pointer()))?;
            c::EC_GROUP_get_curve_name(group)
        };
        let curve = NamedCurve::ALL.into_iter().find(|curve| curve.number() == number).ok_or(Failed)?;
        Ok(Self { key, curve })
    }

    /// Its curve.
    pub(crate) fn curve(&self) -> NamedCurve {
        self.curve
    }

    /// The scalar, as long as the curve's order; `None` for a public key.
    pub(crate) fn scalar(&self) -> Result<Option<SecretBytes>, Failed> {
        // SAFETY: the key is live, and the number belongs to it.
        unsafe {
            let number = c::EC_KEY_get0_private_key(self.key.pointer());
            if number.is_null() { Ok(None) } else { padded_bytes_of(number, self.curve.bytes()).map(Some) }
        }
    }

    /// The public point, uncompressed (SEC 1 §2.3.3).
    pub(crate) fn point(&self) -> Result<Vec<u8>, Failed> {
        let mut output = vec![0; 1 + 2 * self.curve.bytes()];
        // SAFETY: key, group and point are live; the output has the length that is passed.
        let written = unsafe {
            c::EC_POINT_point2oct(
                c::EC_KEY_get0_group(self.key.pointer()),
                c::EC_KEY_get0_public_key(self.key.pointer()),
                c::point_conversion_form_t::POINT_CONVERSION_UNCOMPRESSED,
                output.as_mut_ptr(),
                output.len(),
                std::ptr::null_mut(),
            )
        };
        if written == output.len() { Ok(output) } else { Err(failed()) }
    }

    /// Signs a digest of any length; only its leftmost bits count, as many as the order has (FIPS 186-5 §6.4.1). The
    /// signature is r ‖ s, each as long as the order (PKCS#11 3.2 §6.3.1).
    pub(crate) fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, Failed> {
        // SAFETY: the key is live and private or the call fails; the object is fresh.
        let signature = unsafe { Owned::take(c::ECDSA_do_sign(digest.as_ptr(), digest.len(), self.key.pointer())) }?;
        let half = self.curve.bytes();
        let mut output = vec![0; 2 * half];
        // SAFETY: both numbers belong to the live signature, and each half of the output has the length that is passed.
        unsafe {
            let (r, s) = output.split_at_mut(half);
            check(c::BN_bn2bin_padded(r.as_mut_ptr(), half, c::ECDSA_SIG_get0_r(signature.pointer())))?;
            check(c::BN_bn2bin_padded(s.as_mut_ptr(), half, c::ECDSA_SIG_get0_s(signature.pointer())))?;
        }
        Ok(output)
    }

    /// Whether r and s are a signature of the digest. Both may have leading zeros or lack them.
    pub(crate) fn verify(&self, digest: &[u8], r: &[u8], s: &[u8]) -> Result<bool, Failed> {
        let (r, s) = (Big::from_bytes(r)?, Big::from_bytes(s)?);
        // SAFETY: the signature is fresh; `set0` takes both numbers over when it succeeds, which it does for numbers that
        // are not null; then nobody else owns them.
        unsafe {
            let signature = Owned::take(c::ECDSA_SIG_new())?;
            check(c::ECDSA_SIG_set0(signature.pointer(), r.0.release(), s.0.release()))?;
            let status = c::ECDSA_do_verify(digest.as_ptr(), digest.len(), signature.pointer(), self.key.pointer());
            Ok(check(status).is_ok())
        }
    }

    /// The x-coordinate of the shared point (SP 800-56A r3 §5.7.1.2; the cofactor of these curves is 1). Fails when the
    /// peer's point is not on the curve.
    pub(crate) fn agree(&self, peer: &[u8]) -> Result<SecretBytes, Failed> {
        let point = Self::read_point(&self.key, peer)?;
        let mut shared = SecretBytes::zeros(self.curve.bytes());
        // SAFETY: the output has the length that is passed; point and key are live; without a function nothing is hashed.
        let written = unsafe {
            c::ECDH_compute_key(
                shared.expose_mut().as_mut_ptr().cast(),
                shared.len(),
                point.pointer(),
                self.key.pointer(),
                None,
            )
        };
        if usize::try_from(written) == Ok(shared.len()) { Ok(shared) } else { Err(failed()) }
    }

    /// The library's key, which the caller must not change.
    pub(super) fn pointer(&self) -> *mut c::EC_KEY {
        self.key.pointer()
    }

    fn empty(curve: NamedCurve) -> Result<Owned<c::EC_KEY>, Failed> {
        // SAFETY: a fresh object that nobody else owns.
        unsafe { Owned::take(c::EC_KEY_new_by_curve_name(curve.number())) }
    }

    fn read_point(key: &Owned<c::EC_KEY>, bytes: &[u8]) -> Result<Owned<c::EC_POINT>, Failed> {
        // SAFETY: the group belongs to the live key; the point is fresh; the slice is live. The library checks that the
        // point is on the curve.
        unsafe {
            let group = c::EC_KEY_get0_group(key.pointer());
            let point = Owned::take(c::EC_POINT_new(group))?;
            check(c::EC_POINT_oct2point(group, point.pointer(), bytes.as_ptr(), bytes.len(), std::ptr::null_mut()))?;
            if c::EC_POINT_is_at_infinity(group, point.pointer()) == 1 {
                return Err(failed());
            }
            Ok(point)
        }
    }
}
