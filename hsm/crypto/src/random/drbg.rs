//! CTR_DRBG with AES-256 and the derivation function: SP 800-90A Rev. 1 §10.2.1. No prediction resistance.

use zeroize::{Zeroize, Zeroizing};

use crate::fault::SelfTestFailure;
use crate::wide::block::BlockKey;
use crate::wide::{Failed, block};

const KEY: usize = 32;
const BLOCK: usize = 16;
/// Key and block together.
const SEED: usize = KEY + BLOCK;

/// One generator. It is advanced before anything is given out, so no output can be computed back (§10.2.1.5.2).
pub(crate) struct CtrDrbg {
    key: BlockKey,
    value: [u8; BLOCK],
    requests: u64,
}

impl CtrDrbg {
    /// §10.2.1.3.2: a generator from noise, a nonce and a personalization string.
    pub(crate) fn instantiate(entropy: &[u8], nonce: &[u8], personalization: &[u8]) -> Result<Self, SelfTestFailure> {
        let seed = derive(&[entropy, nonce, personalization])?;
        let mut drbg = Self { key: expand(&[0; KEY])?, value: [0; BLOCK], requests: 1 };
        drbg.update(&seed)?;
        Ok(drbg)
    }

    /// §10.2.1.4.2: new noise.
    pub(crate) fn reseed(&mut self, entropy: &[u8], additional: &[u8]) -> Result<(), SelfTestFailure> {
        let seed = derive(&[entropy, additional])?;
        self.update(&seed)?;
        self.requests = 1;
        Ok(())
    }

    /// §10.2.1.5.2 without additional input. At most 2^16 bytes a request.
    pub(crate) fn generate(&mut self, output: &mut [u8]) -> Result<(), SelfTestFailure> {
        self.generate_with(&Zeroizing::new([0; SEED]), output)
    }

    /// §10.2.1.5.2 with additional input.
    #[cfg(test)]
    fn generate_additional(&mut self, additional: &[u8], output: &mut [u8]) -> Result<(), SelfTestFailure> {
        let additional = derive(&[additional])?;
        self.update(&additional)?;
        self.generate_with(&additional, output)
    }

    fn generate_with(&mut self, additional: &[u8; SEED], output: &mut [u8]) -> Result<(), SelfTestFailure> {
        let first = incremented(&self.value, 1);
        self.key.key_stream(&first, output);
        self.value = incremented(&self.value, output.len().div_ceil(BLOCK) as u128);
        self.update(additional)?;
        self.requests += 1;
        Ok(())
    }

    /// Requests since the last seed, which counts as the first.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// §10.2.1.2.
    fn update(&mut self, data: &[u8; SEED]) -> Result<(), SelfTestFailure> {
        let mut next = Zeroizing::new([0; SEED]);
        self.key.key_stream(&incremented(&self.value, 1), &mut *next);
        next.iter_mut().zip(data).for_each(|(byte, data)| *byte ^= data);
        self.key = expand(&next[..KEY])?;
        self.value.copy_from_slice(&next[KEY..]);
        Ok(())
    }
}

impl Drop for CtrDrbg {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// Block_Cipher_df of §10.3.2 for 384 bits, over the concatenated parts.
fn derive(parts: &[&[u8]]) -> Result<Zeroizing<[u8; SEED]>, SelfTestFailure> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| SelfTestFailure::NoEntropy)?;
    let mut input = Zeroizing::new(Vec::with_capacity(length as usize + 3 * BLOCK));
    input.extend_from_slice(&length.to_be_bytes());
    input.extend_from_slice(&48_u32.to_be_bytes());
    parts.iter().for_each(|part| input.extend_from_slice(part));
    input.push(0x80);
    let padded = input.len().next_multiple_of(BLOCK);
    input.resize(padded, 0);

    let fixed: [u8; KEY] = std::array::from_fn(|index| u8::try_from(index).unwrap_or(0));
    let fixed = expand(&fixed)?;
    let mut chained = Zeroizing::new([0; SEED]);
    for (counter, output) in (0_u32..).zip(chained.chunks_mut(BLOCK)) {
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(&counter.to_be_bytes());
        block = fixed.encrypt(&block);
        for piece in input.chunks(BLOCK) {
            block.iter_mut().zip(piece).for_each(|(byte, piece)| *byte ^= piece);
            block = fixed.encrypt(&block);
        }
        output.copy_from_slice(&block);
        block.zeroize();
    }
    let key = expand(&chained[..KEY])?;
    let mut block = [0; BLOCK];
    block.copy_from_slice(&chained[KEY..]);
    let mut seed = Zeroizing::new([0; SEED]);
    for output in seed.chunks_mut(BLOCK) {
        block = key.encrypt(&block);
        output.copy_from_slice(&block);
    }
    block.zeroize();
    Ok(seed)
}

fn expand(key: &[u8]) -> Result<BlockKey, SelfTestFailure> {
    block::BlockKey::encrypting(key).map_err(|Failed| SelfTestFailure::KnownAnswer("CTR_DRBG"))
}

fn incremented(value: &[u8; BLOCK], by: u128) -> [u8; BLOCK] {
    u128::from_be_bytes(*value).wrapping_add(by).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> Vec<u8> {
        let text = include_str!("../../testdata/ctr_drbg_additional.txt");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).unwrap();
        hex::decode(line).unwrap()
    }

    #[test]
    fn personalization_and_additional_input_count_as_the_standard_says() {
        let mut drbg = CtrDrbg::instantiate(&case("entropy"), &case("nonce"), &case("personalization")).unwrap();
        let mut output = [0; 64];
        drbg.generate_additional(&case("additional_first"), &mut output).unwrap();
        drbg.generate_additional(&case("additional_second"), &mut output).unwrap();
        assert_eq!(output.as_slice(), case("output"));
    }

    #[test]
    fn requests_are_counted_from_the_last_seed() {
        let mut drbg = CtrDrbg::instantiate(&[1; 48], &[2; 16], &[]).unwrap();
        assert_eq!(drbg.requests(), 1);
        drbg.generate(&mut [0; 7]).unwrap();
        assert_eq!(drbg.requests(), 2);
        drbg.reseed(&[3; 48], b"more").unwrap();
        assert_eq!(drbg.requests(), 1);
    }
}
