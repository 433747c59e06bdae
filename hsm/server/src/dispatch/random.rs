//! `C_GenerateRandom` and `C_SeedRandom`. No login is needed (PKCS#11 3.2 §5.17), but a cluster in service.

use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, limits, wire};

use super::call::{Answered, Call, Result};
use super::limits::SEED_BYTES;

pub(super) fn random(call: &Call<'_>, message: &wire::Random) -> Result<Answered> {
    if message.length > limits::RANDOM_BYTES {
        return Err(ErrorCode::TooLarge.into());
    }
    let mut data = vec![0; message.length as usize];
    call.service.module().random(&mut data)?;
    Ok(Answered::Now(Body::Bytes(wire::BytesReply { data, iv: Vec::new() })))
}

pub(super) fn seed(call: &Call<'_>, message: wire::SeedRandom) -> Result<Answered> {
    if message.seed.len() > SEED_BYTES {
        return Err(ErrorCode::TooLarge.into());
    }
    // Additional input only: it can add to the generators' state and never take from it.
    let seed = zeroize::Zeroizing::new(message.seed);
    call.service.module().reseed(&seed)?;
    Ok(Answered::Now(Body::Done(wire::Done::default())))
}
