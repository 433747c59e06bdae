//! AES in ECB, CBC, CBC with PKCS#7 padding, and CTR (SP 800-38A; PKCS#11 3.2 §6.13).

use hsm_protocol::{MechanismKind as M, Parameters};
use zeroize::Zeroizing;

use super::{Call, Encrypted, Family, Outcome, Transform};
use crate::fault::CryptoFault;
use crate::secret::SecretBytes;
use crate::wide::{Cipher, Direction, Mode};

const BLOCK: usize = 16;

/// `CKM_AES_ECB`, `CKM_AES_CBC`, `CKM_AES_CBC_PAD` and `CKM_AES_CTR`.
pub(crate) struct Modes;

impl Family for Modes {
    fn kinds(&self) -> &'static [M] {
        &[M::AES_ECB, M::AES_CBC, M::AES_CBC_PAD, M::AES_CTR]
    }

    fn transform(&self, call: &Call<'_>, direction: Direction) -> Outcome<Option<Box<dyn Transform>>> {
        let key = call.key.aes()?.bytes.expose();
        Ok(Some(match (call.mechanism.kind, &call.mechanism.parameters) {
            (M::AES_ECB, Parameters::None) => {
                Box::new(Blocks { cipher: Cipher::new(Mode::Ecb, key, &[], direction)?, direction })
            }
            (M::AES_CBC, Parameters::Iv(iv)) if iv.len() == BLOCK => {
                Box::new(Blocks { cipher: Cipher::new(Mode::Cbc, key, iv, direction)?, direction })
            }
            (M::AES_CBC_PAD, Parameters::Iv(iv)) if iv.len() == BLOCK => {
                let cipher = Cipher::new(Mode::Cbc, key, iv, direction)?;
                match direction {
                    Direction::Encrypt => Box::new(Padding { cipher, taken: 0 }),
                    Direction::Decrypt => Box::new(Unpadding { cipher, held: Zeroizing::default(), taken: 0 }),
                }
            }
            (M::AES_CTR, Parameters::Ctr { counter_bits, block }) => {
                Box::new(Counter::new(key, *counter_bits, *block)?)
            }
            _ => return Err(CryptoFault::MechanismParameters),
        }))
    }

    fn wrap(&self, call: &Call<'_>, material: &[u8], is_secret_key: bool) -> Outcome<Encrypted> {
        if call.mechanism.kind == M::AES_CBC_PAD {
            return self.encrypt(call, material);
        }
        // PKCS#11 3.2 §6.13.4: secret keys only, with zeros at the end up to whole blocks.
        if !is_secret_key {
            return Err(CryptoFault::NotWrappable);
        }
        let mut padded = SecretBytes::zeros(material.len().next_multiple_of(BLOCK));
        padded.expose_mut()[..material.len()].copy_from_slice(material);
        self.encrypt(call, padded.expose())
    }

    fn unwrap(&self, call: &Call<'_>, wrapped: &[u8], length: Option<usize>) -> Outcome<SecretBytes> {
        let opened = self.decrypt(call, wrapped).map_err(|fault| match fault {
            CryptoFault::EncryptedInvalid => CryptoFault::WrappedKeyInvalid,
            CryptoFault::EncryptedLength => CryptoFault::WrappedKeyLength,
            other => other,
        })?;
        if call.mechanism.kind == M::AES_CBC_PAD {
            return Ok(opened.into());
        }
        let length = length.unwrap_or(opened.len());
        // The padding is less than a block.
        if length > opened.len() || opened.len() - length >= BLOCK {
            return Err(CryptoFault::WrappedKeyLength);
        }
        Ok(SecretBytes::copy_of(&opened[..length]))
    }
}

/// A mode that takes whole blocks.
struct Blocks {
    cipher: Cipher,
    direction: Direction,
}

impl Transform for Blocks {
    fn update(&mut self, data: &[u8], output: &mut Vec<u8>) -> Outcome<()> {
        Ok(self.cipher.update(data, output)?)
    }

    fn finish(&mut self, _output: &mut Vec<u8>) -> Outcome<()> {
        self.cipher.finish().map_err(|_| match self.direction {
            Direction::Encrypt => CryptoFault::DataLength,
            Direction::Decrypt => CryptoFault::EncryptedLength,
        })
    }
}

/// CBC encryption with padding.
struct Padding {
    cipher: Cipher,
    taken: usize,
}

impl Transform for Padding {
    fn update(&mut self, data: &[u8], output: &mut Vec<u8>) -> Outcome<()> {
        self.taken = (self.taken + data.len()) % BLOCK;
        Ok(self.cipher.update(data, output)?)
    }

    fn finish(&mut self, output: &mut Vec<u8>) -> Outcome<()> {
        let padding = BLOCK - self.taken;
        let byte = u8::try_from(padding).map_err(|_| CryptoFault::ModuleFailed)?;
        self.cipher.update(&[byte; BLOCK][..padding], output)?;
        Ok(self.cipher.finish()?)
    }
}

/// CBC decryption with padding: the last block of what was decrypted is held back.
struct Unpadding {
    cipher: Cipher,
    held: Zeroizing<Vec<u8>>,
    taken: usize,
}

impl Transform for Unpadding {
    fn update(&mut self, data: &[u8], output: &mut Vec<u8>) -> Outcome<()> {
        self.taken = self.taken.wrapping_add(data.len());
        let mut opened = Zeroizing::new(std::mem::take(&mut *self.held));
        opened.reserve_exact(data.len() + BLOCK);
        self.cipher.update(data, &mut opened)?;
        let give = opened.len().saturating_sub(BLOCK);
        output.extend_from_slice(&opened[..give]);
        *self.held = opened[give..].to_vec();
        Ok(())
    }

    fn finish(&mut self, output: &mut Vec<u8>) -> Outcome<()> {
        if self.taken == 0 || !self.taken.is_multiple_of(BLOCK) || self.held.len() != BLOCK {
            return Err(CryptoFault::EncryptedLength);
        }
        let padding = padding_of(&self.held)?;
        output.extend_from_slice(&self.held[..BLOCK - padding]);
        Ok(())
    }
}

/// The length of the padding of a block, looked at without a branch on its bytes: only whether the whole is right can be
/// seen from outside (and that is what a caller is told in any case: PKCS#11 has no authenticated answer for this mode).
fn padding_of(block: &[u8]) -> Outcome<usize> {
    let last = block[BLOCK - 1];
    let mut wrong = 0_u8;
    for (distance, &byte) in (1_u8..).zip(block.iter().rev()) {
        // All ones when this byte belongs to the padding: distance <= last.
        let inside = u8::from(distance <= last).wrapping_neg();
        wrong |= inside & (byte ^ last);
    }
    wrong |= u8::from(last == 0) | u8::from(usize::from(last) > BLOCK);
    if std::hint::black_box(wrong) == 0 { Ok(usize::from(last)) } else { Err(CryptoFault::EncryptedInvalid) }
}

/// CTR whose counter is the low bits of the block; the rest of the block stays as it is.
struct Counter {
    key: SecretBytes,
    cipher: Cipher,
    /// The block at which the counter is 0.
    zero: [u8; BLOCK],
    /// Bytes until the counter wraps to 0; `None` when it does not within anybody's lifetime.
    before_wrap: Option<u128>,
    /// Bytes until every value of the counter was used.
    left: Option<u128>,
}

/// Counters of so many bits or more are not tracked: 2^64 blocks are more than anybody encrypts.
const UNTRACKED_BITS: u32 = 64;

impl Counter {
    fn new(key: &[u8], bits: u32, block: [u8; BLOCK]) -> Outcome<Self> {
        if !(1..=128).contains(&bits) {
            return Err(CryptoFault::MechanismParameters);
        }
        let mask = u128::MAX >> (128 - bits);
        let value = u128::from_be_bytes(block);
        let (mut before_wrap, mut left) = (None, None);
        if bits < 128 {
            // The provider counts with all 128 bits, so the wrap of any shorter counter must be watched, however far away.
            let until = mask - (value & mask) + 1;
            before_wrap = until.checked_mul(BLOCK as u128);
            left = (bits < UNTRACKED_BITS).then(|| (mask + 1) * BLOCK as u128);
        }
        Ok(Self {
            cipher: Cipher::new(Mode::Ctr, key, &block, Direction::Encrypt)?,
            key: SecretBytes::copy_of(key),
            zero: (value & !mask).to_be_bytes(),
            before_wrap,
            left,
        })
    }
}

impl Transform for Counter {
    fn update(&mut self, mut data: &[u8], output: &mut Vec<u8>) -> Outcome<()> {
        if let Some(left) = &mut self.left {
            // PKCS#11 3.2 §6.13.4.3: no more blocks than the counter has values.
            *left = left.checked_sub(data.len() as u128).ok_or(CryptoFault::DataLength)?;
        }
        while let Some(before) = self.before_wrap.filter(|&before| before <= data.len() as u128) {
            let now = usize::try_from(before).map_err(|_| CryptoFault::ModuleFailed)?;
            self.cipher.update(&data[..now], output)?;
            data = &data[now..];
            self.cipher = Cipher::new(Mode::Ctr, self.key.expose(), &self.zero, Direction::Encrypt)?;
            // A second wrap is kept off by `left`, or too far away to happen.
            self.before_wrap = None;
        }
        if let Some(before) = &mut self.before_wrap {
            *before -= data.len() as u128;
        }
        Ok(self.cipher.update(data, output)?)
    }

    fn finish(&mut self, _output: &mut Vec<u8>) -> Outcome<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paddings_are_right_or_wrong_as_a_whole() {
        let mut block = [7; BLOCK];
        for right in 1..=BLOCK {
            block[BLOCK - right..].fill(u8::try_from(right).unwrap());
            assert_eq!(padding_of(&block), Ok(right));
            if right > 1 {
                let mut wrong = block;
                wrong[BLOCK - right] ^= 0x80;
                assert_eq!(padding_of(&wrong), Err(CryptoFault::EncryptedInvalid));
            }
        }
        for last in [0, 17, 255] {
            block[BLOCK - 1] = last;
            assert_eq!(padding_of(&block), Err(CryptoFault::EncryptedInvalid));
        }
    }

    fn count(bits: u32, block: [u8; BLOCK], length: usize) -> Outcome<Vec<u8>> {
        let mut output = Vec::new();
        Counter::new(&[1; 16], bits, block)?.update(&vec![0; length], &mut output)?;
        Ok(output)
    }

    #[test]
    fn a_counter_wraps_within_its_bits_and_leaves_the_rest_of_the_block() {
        let mut last = [0xAB; BLOCK];
        last[BLOCK - 1] = 0xFF;
        let mut zero = last;
        zero[BLOCK - 1] = 0;
        let wrapped = count(8, last, 48).unwrap();
        assert_eq!(wrapped[..16], count(8, last, 16).unwrap());
        assert_eq!(wrapped[16..], count(8, zero, 32).unwrap());
        // With a longer counter the carry goes on.
        let mut next = zero;
        next[BLOCK - 2] = 0xAC;
        assert_eq!(count(16, last, 48).unwrap()[16..], count(16, next, 32).unwrap());
    }

    #[test]
    fn a_counter_is_never_used_twice() {
        assert!(count(4, [0; BLOCK], 16 * BLOCK).is_ok());
        assert_eq!(count(4, [0; BLOCK], 16 * BLOCK + 1), Err(CryptoFault::DataLength));
        assert!(count(128, [0xFF; BLOCK], 100).is_ok());
        assert_eq!(count(0, [0; BLOCK], 1), Err(CryptoFault::MechanismParameters));
        assert_eq!(count(129, [0; BLOCK], 1), Err(CryptoFault::MechanismParameters));
    }

    #[test]
    fn a_counter_in_parts_equals_a_counter_at_once() {
        let mut block = [0; BLOCK];
        block[BLOCK - 1] = 0xF0;
        let whole = count(8, block, 1000).unwrap();
        for step in [1, 7, 16, 31, 256] {
            let mut counter = Counter::new(&[1; 16], 8, block).unwrap();
            let mut output = Vec::new();
            for part in vec![0; 1000].chunks(step) {
                counter.update(part, &mut output).unwrap();
            }
            assert_eq!(output, whole, "{step}");
        }
    }
}
