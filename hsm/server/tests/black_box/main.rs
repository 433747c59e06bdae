//! Black-box tests of the process `kagimori-hsm`, by topic. They start the program that was built and drive it from
//! outside, with the system's OpenSSL as the foreign judge.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod ceremony;
mod client_certificates;
mod cluster;
mod epochs;
mod full_disk;
mod guesses;
mod health;
mod isolated_logins;
mod isolation;
mod largest;
mod management;
mod observability;
mod peers;
mod power;
mod process;
mod recovery;
mod releases;
mod rolling;
mod sandbox;
mod session_objects;
mod several;
mod stored;
mod stranger;
mod streaming;
mod support;
mod tls;
mod versions;
