//! The process `kagimori-hsm`: one HSM of a cluster.
//!
//! It starts the cryptographic module, opens the store, listens for applications (TLS 1.3 and a Unix socket), for the
//! other HSMs of its cluster ([`peers`]) and for whoever runs it (the management socket), and locks itself up. [`process`] holds the order of start and stop,
//! [`connection`] frames and sessions, [`dispatch`] the work on one request.
//!
//! It must not decide what is allowed (`hsm-core` does), do cryptography on its own (`hsm-crypto` does), or know how
//! commands are ordered and stored (`hsm-replication` does). Nothing but the binary uses it.

pub mod ceremony;
pub mod command_line;
pub mod connection;
pub mod customer_certificate;
pub mod data_folder;
pub mod dispatch;
mod doors;
mod epochs;
pub mod exit;
mod formation;
pub mod health;
pub mod identity;
pub mod installation;
mod isolated_journal;
mod joining;
pub mod limits;
pub mod listener;
pub mod logging;
pub mod manage;
pub mod management;
pub mod masters;
pub mod member;
pub mod metrics;
mod node_watch;
pub mod peer;
pub mod peers;
mod place_file;
pub mod process;
mod recovery;
pub mod release;
pub mod root_of_trust;
pub mod sandbox;
pub mod settings;
pub mod tls;
mod unix_socket;
