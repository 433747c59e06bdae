//! Input of a signature or MAC, taken in by parts.

use hsm_protocol::limits::AEAD_HOLD_LIMIT;
use zeroize::Zeroizing;

use super::Outcome;
use crate::fault::CryptoFault;
use crate::wide::{Cmac, Digest, Hash, Hmac};

/// Input under way. The end of it is a digest, a MAC, or the message itself.
pub(crate) enum Gather {
    /// Hashed.
    Digest(Digest),
    /// Under an HMAC.
    Hmac(Hmac),
    /// Under a CMAC.
    Cmac(Cmac),
    /// Kept, because the mechanism wants it whole.
    Whole(Zeroizing<Vec<u8>>),
}

impl Gather {
    /// Kept whole.
    pub(crate) fn whole() -> Self {
        Self::Whole(Zeroizing::default())
    }

    /// Hashed.
    pub(crate) fn digest(hash: Hash) -> Outcome<Self> {
        Ok(Self::Digest(Digest::new(hash)?))
    }

    /// Takes more input. What is kept whole is limited, because it costs memory.
    pub(crate) fn update(&mut self, data: &[u8]) -> Outcome<()> {
        match self {
            Self::Digest(digest) => Ok(digest.update(data)?),
            Self::Hmac(hmac) => Ok(hmac.update(data)?),
            Self::Cmac(cmac) => Ok(cmac.update(data)?),
            Self::Whole(kept) => append(kept, data),
        }
    }

    /// The digest, MAC or message.
    pub(crate) fn finish(self) -> Outcome<Zeroizing<Vec<u8>>> {
        Ok(match self {
            Self::Digest(digest) => Zeroizing::new(digest.finish()?),
            Self::Hmac(hmac) => Zeroizing::new(hmac.finish()?),
            Self::Cmac(cmac) => Zeroizing::new(cmac.finish()?.to_vec()),
            Self::Whole(kept) => kept,
        })
    }
}

/// Appends to input that is kept, up to [`AEAD_HOLD_LIMIT`]. Growing wipes what is left behind.
pub(crate) fn append(kept: &mut Zeroizing<Vec<u8>>, data: &[u8]) -> Outcome<()> {
    let length = kept.len() + data.len();
    if length > AEAD_HOLD_LIMIT {
        return Err(CryptoFault::TooLarge);
    }
    if length > kept.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.max(kept.capacity() * 2)));
        larger.extend_from_slice(kept);
        *kept = larger;
    }
    kept.extend_from_slice(data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_whole_has_a_limit() {
        let mut gather = Gather::whole();
        gather.update(&vec![0; AEAD_HOLD_LIMIT]).unwrap();
        assert_eq!(gather.update(&[0]), Err(CryptoFault::TooLarge));
    }
}
