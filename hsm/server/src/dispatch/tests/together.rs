//! Many clients at once: signing, making and destroying keys, logging in and out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hsm_protocol::wire::{self, request};

use super::client::Hsm;

#[test]
fn clients_that_do_everything_at_once_neither_block_nor_disturb_each_other() {
    let hsm = Hsm::active();
    let mut owner = hsm.connect_as("app");
    let (_, key) = owner.make_pair(true);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = hsm.connect_as("app");
                while !over.load(Ordering::Relaxed) {
                    assert!(client.sign(&key, b"data").is_ok());
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = hsm.connect_as("other");
                while !over.load(Ordering::Relaxed) {
                    let (_, own) = client.make_pair(true);
                    assert!(client.sign(&own, b"data").is_ok());
                    client.change_done(request::Body::DestroyObject(wire::DestroyObject { object: Some(own) }));
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let mut client = hsm.connect_as("other");
                client.make_aes(false);
                client.change_done(request::Body::Logout(wire::Logout {}));
            }
        });
        std::thread::sleep(Duration::from_secs(2));
        over.store(true, Ordering::Relaxed);
    });
    assert!(owner.sign(&key, b"data").is_ok());
}
