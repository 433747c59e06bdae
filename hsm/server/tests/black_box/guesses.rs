//! One counter of wrong passwords for the whole cluster.

use std::sync::Barrier;
use std::time::Duration;

use hsm_client::{CallError, Cluster as Client};
use hsm_protocol::{ErrorCode, Role};

use crate::several::{ADMIN, Cluster, USER, log_in, make_pair, sign, sign_in_the_end};

const CALL: Duration = Duration::from_secs(20);

/// Logs in with this password; waits where it is told to, and answers why it was refused.
fn guess(client: &Client, password: &[u8]) -> Option<ErrorCode> {
    loop {
        match client.log_in("app", Role::CryptoUser, password) {
            Ok(login) => {
                client.log_out(login).unwrap();
                return None;
            }
            Err(CallError::Refused { code: ErrorCode::LoginDelayed, .. }) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Some(error.code().unwrap_or_else(|| panic!("{error}"))),
        }
    }
}

#[test]
fn six_wrong_passwords_spread_over_three_hsms_lock_the_user_everywhere_and_end_no_session() {
    let cluster = Cluster::of(3);
    cluster.activate(0);
    let clients: Vec<_> = (0..3).map(|at| cluster.bound_client(at, CALL)).collect();
    let login = log_in(&clients[0]);
    let (_, key) = make_pair(&clients[0], &login);
    clients.iter().for_each(|client| sign_in_the_end(client, &login, &key));

    let together = Barrier::new(6);
    std::thread::scope(|scope| {
        let (clients, together) = (&clients, &together);
        let guessers: Vec<_> = (0..6)
            .map(|number| {
                scope.spawn(move || {
                    together.wait();
                    guess(&clients[number % 3], b"a wrong password")
                })
            })
            .collect();
        let answers: Vec<_> = guessers.into_iter().map(|guesser| guesser.join().unwrap()).collect();
        assert_eq!(answers, [Some(ErrorCode::LoginRefused); 6]);
    });
    for client in &clients {
        assert_eq!(guess(client, USER), Some(ErrorCode::UserLocked));
        // A stranger's guesses must not stop production.
        sign(client, &login, &key).unwrap();
    }
    let admin = clients[2].log_in("admin", Role::Admin, ADMIN).unwrap();
    let users = clients[2].list_users(Some(&admin)).unwrap();
    assert!(users.iter().any(|user| user.name == "app" && user.locked));
    clients[2].change_password(&admin, Some(("app", Role::CryptoUser)), b"another password").unwrap();
    for client in &clients {
        assert_eq!(guess(client, b"another password"), None);
    }
}
