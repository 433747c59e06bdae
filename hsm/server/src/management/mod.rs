//! The management socket: how whoever runs this process asks and tells it things. `u32 length ‖ protobuf`, big-endian, one
//! request and one reply at a time.
//!
//! It can name no user, key or PIN: the messages have no words for them. [`codec`] frames, [`server`] answers on the
//! socket, and `crate::manage` is the other side. Who may connect is decided by the kernel's word on the peer.

pub mod codec;
pub mod server;

pub use codec::CodecFault;
pub use server::{Answer, ManagementServer};
