//! Large integers, as far as keys need them: reading, writing, and the numbers of RSA that were not given.

use aws_lc_sys as c;

use super::owned::Owned;
use super::{Failed, check, failed};
use crate::secret::SecretBytes;

/// A non-negative integer. Wiped when it goes.
pub(super) struct Big(pub(super) Owned<c::BIGNUM>);

impl Big {
    /// Zero.
    fn zero() -> Result<Self, Failed> {
        // SAFETY: a fresh object that nobody else owns.
        Ok(Self(unsafe { Owned::take(c::BN_new()) }?))
    }

    /// Reads big-endian bytes; leading zeros do not count.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Failed> {
        // SAFETY: the slice is live; a null target asks for a fresh object, which nobody else owns.
        Ok(Self(unsafe { Owned::take(c::BN_bin2bn(bytes.as_ptr(), bytes.len(), std::ptr::null_mut())) }?))
    }

    /// Bits without leading zeros.
    pub(super) fn bits(&self) -> u32 {
        // SAFETY: the number is valid.
        unsafe { c::BN_num_bits(self.pointer()) }
    }

    pub(super) fn pointer(&self) -> *mut c::BIGNUM {
        self.0.pointer()
    }

    fn is_one(&self) -> bool {
        // SAFETY: the number is valid.
        unsafe { c::BN_is_one(self.pointer()) == 1 }
    }
}

/// Writes a number of the library as big-endian bytes without leading zeros.
///
/// # Safety
/// `number` is a live BIGNUM.
pub(super) unsafe fn bytes_of(number: *const c::BIGNUM) -> Result<SecretBytes, Failed> {
    // SAFETY: the caller's promise.
    let length = unsafe { c::BN_num_bytes(number) } as usize;
    // SAFETY: as above.
    unsafe { padded_bytes_of(number, length) }
}

/// Writes a number of the library as big-endian bytes of a certain length.
///
/// # Safety
/// `number` is a live BIGNUM.
pub(super) unsafe fn padded_bytes_of(number: *const c::BIGNUM, length: usize) -> Result<SecretBytes, Failed> {
    let mut bytes = SecretBytes::zeros(length);
    // SAFETY: the number is live by the caller's promise, and the slice has the length that is passed.
    check(unsafe { c::BN_bn2bin_padded(bytes.expose_mut().as_mut_ptr(), length, number) })?;
    Ok(bytes)
}

/// Primes and CRT values of an RSA key.
pub(super) struct Factors {
    pub(super) p: Big,
    pub(super) q: Big,
    pub(super) dp: Big,
    pub(super) dq: Big,
    pub(super) qi: Big,
}

/// Bases that are tried before a key is called inconsistent; each finds the factors with probability 1/2 at least.
const BASES: u64 = 128;

impl Factors {
    /// The primes of a modulus from both exponents: SP 800-56B r2 Appendix C.1. Not in constant time; used once, when a
    /// key is imported without its primes.
    pub(super) fn recover(n: &Big, e: &Big, d: &Big) -> Result<Self, Failed> {
        let context = Context::new()?;
        let k = Big::zero()?;
        // SAFETY: all numbers and the context are live; `k` is the only one that is written.
        unsafe {
            check(c::BN_mul(k.pointer(), d.pointer(), e.pointer(), context.pointer()))?;
            check(c::BN_sub_word(k.pointer(), 1))?;
            if c::BN_is_odd(k.pointer()) == 1 || c::BN_is_zero(k.pointer()) == 1 {
                return Err(failed());
            }
        }
        let mut twos = 0;
        // SAFETY: `k` is live and even and not zero.
        while unsafe { c::BN_is_odd(k.pointer()) } == 0 {
            // SAFETY: shifting in place is allowed.
            check(unsafe { c::BN_rshift1(k.pointer(), k.pointer()) })?;
            twos += 1;
        }
        for base in 2..BASES {
            if let Some(p) = try_base(base, &k, twos, n, &context)? {
                return Self::from_prime(p, n, d, &context);
            }
        }
        Err(failed())
    }

    /// Both primes and the CRT values, from one prime.
    fn from_prime(p: Big, n: &Big, d: &Big, context: &Context) -> Result<Self, Failed> {
        let (q, rest) = (Big::zero()?, Big::zero()?);
        // SAFETY: all numbers and the context are live; quotient and rest are written.
        unsafe {
            check(c::BN_div(q.pointer(), rest.pointer(), n.pointer(), p.pointer(), context.pointer()))?;
            if c::BN_is_zero(rest.pointer()) != 1 {
                return Err(failed());
            }
        }
        // SAFETY: both numbers are live.
        let (p, q) = if unsafe { c::BN_cmp(p.pointer(), q.pointer()) } < 0 { (q, p) } else { (p, q) };
        Self::from_primes(p, q, d)
    }

    /// The CRT values, from both primes.
    pub(super) fn from_primes(p: Big, q: Big, d: &Big) -> Result<Self, Failed> {
        let context = Context::new()?;
        let (dp, dq) = (exponent(d, &p, &context)?, exponent(d, &q, &context)?);
        // SAFETY: both numbers and the context are live; a null target asks for a fresh object.
        let inverse = unsafe { c::BN_mod_inverse(std::ptr::null_mut(), q.pointer(), p.pointer(), context.pointer()) };
        // SAFETY: the object is fresh, or null when there is no inverse.
        let qi = Big(unsafe { Owned::take(inverse) }?);
        Ok(Self { p, q, dp, dq, qi })
    }
}

/// One round of the search: a factor of `n`, if this base shows one.
fn try_base(base: u64, odd: &Big, twos: u32, n: &Big, context: &Context) -> Result<Option<Big>, Failed> {
    let (g, x, y, minus_one) = (Big::zero()?, Big::zero()?, Big::zero()?, Big::zero()?);
    // SAFETY: all numbers and the context are live, and each call writes its first argument only.
    unsafe {
        check(c::BN_set_u64(g.pointer(), base))?;
        check(c::BN_mod_exp(x.pointer(), g.pointer(), odd.pointer(), n.pointer(), context.pointer()))?;
        check(c::BN_sub(minus_one.pointer(), n.pointer(), c::BN_value_one()))?;
        if x.is_one() || c::BN_cmp(x.pointer(), minus_one.pointer()) == 0 {
            return Ok(None);
        }
        for _ in 0..twos {
            check(c::BN_mod_mul(y.pointer(), x.pointer(), x.pointer(), n.pointer(), context.pointer()))?;
            if y.is_one() {
                check(c::BN_sub_word(x.pointer(), 1))?;
                check(c::BN_gcd(g.pointer(), x.pointer(), n.pointer(), context.pointer()))?;
                return Ok(Some(g));
            }
            if c::BN_cmp(y.pointer(), minus_one.pointer()) == 0 {
                return Ok(None);
            }
            check(i32::from(!c::BN_copy(x.pointer(), y.pointer()).is_null()))?;
        }
    }
    Ok(None)
}

/// d mod (prime - 1).
fn exponent(d: &Big, prime: &Big, context: &Context) -> Result<Big, Failed> {
    let (less, result) = (Big::zero()?, Big::zero()?);
    // SAFETY: all numbers and the context are live; a null quotient is allowed.
    unsafe {
        check(c::BN_sub(less.pointer(), prime.pointer(), c::BN_value_one()))?;
        check(c::BN_div(std::ptr::null_mut(), result.pointer(), d.pointer(), less.pointer(), context.pointer()))?;
    }
    Ok(result)
}

struct Context(Owned<c::BN_CTX>);

impl Context {
    fn new() -> Result<Self, Failed> {
        // SAFETY: a fresh object that nobody else owns.
        Ok(Self(unsafe { Owned::take(c::BN_CTX_new()) }?))
    }

    fn pointer(&self) -> *mut c::BN_CTX {
        self.0.pointer()
    }
}
