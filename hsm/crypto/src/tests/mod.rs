//! Tests of whole mechanisms: every row of the policy's table, C2SP's Wycheproof vectors, OpenSSL as the other side.

mod imports;
pub(crate) mod keys;
mod openssl;
mod seals;
mod speed;
mod streams;
mod table;
mod wiping;
mod wrapping;
mod wycheproof;
