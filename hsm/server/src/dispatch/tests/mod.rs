//! What the work on requests promises, shown with a real node on a disk and a small client of its own.

mod client;
mod cryptography;
mod hostile;
mod logins;
mod sessions;
mod streams;
