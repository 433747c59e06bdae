//! What the work on requests promises, shown with a real node on a disk and a small client of its own.

mod client;
mod cryptography;
mod epochs;
mod hostile;
mod hot_path;
mod logins;
mod long;
mod members;
mod policy;
mod roster;
mod sessions;
mod streams;
mod tls;
mod together;
mod transport_keys;
