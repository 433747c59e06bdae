//! Black-box tests of the process `kagimori-hsm`, by topic. They start the program that was built and drive it from
//! outside, with the system's OpenSSL as the foreign judge.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod ceremony;
mod client_certificates;
mod cluster;
mod health;
mod management;
mod observability;
mod peers;
mod process;
mod releases;
mod rolling;
mod sandbox;
mod stored;
mod stranger;
mod support;
mod tls;
mod versions;
