//! Logging in, and what is refused.

use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{ErrorCode, Role};

use super::client::{ADMIN_PASSWORD, Client, Hsm, USER_PASSWORD};

fn list_users(client: &mut Client) -> Vec<wire::User> {
    let reply::Body::ListUsers(reply) = client.call(request::Body::ListUsers(wire::ListUsers {})).unwrap() else {
        panic!("no users")
    };
    reply.users
}

fn change_password(name: &str, role: Role, password: &[u8]) -> request::Body {
    request::Body::ChangePassword(wire::ChangePassword {
        name: name.into(),
        role: role as u32,
        password: password.to_vec(),
    })
}

#[test]
fn activation_needs_the_activation_password_and_happens_once() {
    let hsm = Hsm::initialized();
    let mut client = hsm.connect();
    let activate = |password: &[u8], new: &[u8]| {
        request::Body::Activate(wire::Activate { activation_password: password.to_vec(), password: new.to_vec() })
    };
    assert_eq!(client.call(activate(b"wrong", ADMIN_PASSWORD)).err(), Some(ErrorCode::LoginRefused));
    assert_eq!(
        client.call(activate(super::client::ACTIVATION_PASSWORD, b"short")).err(),
        Some(ErrorCode::PasswordRule)
    );
    assert!(client.open_login("admin", Role::Admin, ADMIN_PASSWORD).is_err());
    client.done(activate(super::client::ACTIVATION_PASSWORD, ADMIN_PASSWORD));
    assert!(client.call(activate(super::client::ACTIVATION_PASSWORD, b"another-password")).is_err());
    client.log_in("Admin", Role::Admin, ADMIN_PASSWORD);
    assert!(list_users(&mut client).iter().any(|user| user.name == "admin" && user.role == Role::Admin as u32));
}

#[test]
fn a_wrong_password_an_unknown_user_and_an_impossible_name_get_the_same_answer() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    for (name, password) in
        [("app", &b"wrong"[..]), ("nobody", b"wrong"), ("no body", b"wrong"), ("app", &[0xFF; 4096])]
    {
        let refused = client.open_login(name, Role::CryptoUser, password).err();
        assert_eq!(refused, Some(ErrorCode::LoginRefused), "{name}");
    }
    assert!(client.open_login("app", Role::Appliance, b"x").is_err());
    assert!(client.open_login("app", Role::CryptoUser, USER_PASSWORD).is_ok());
}

#[test]
fn six_wrong_passwords_stop_new_logins_and_no_running_session() {
    let hsm = Hsm::active();
    let mut working = hsm.connect_as("app");
    let (_, key) = working.make_pair(true);
    let mut guesser = hsm.connect();
    for _ in 0..6 {
        assert_eq!(guesser.open_login("app", Role::CryptoUser, b"wrong guess").err(), Some(ErrorCode::LoginRefused));
    }
    assert_eq!(guesser.open_login("app", Role::CryptoUser, USER_PASSWORD).err(), Some(ErrorCode::UserLocked));
    assert!(working.sign(&key, b"data").is_ok(), "the running session goes on");
    let mut admin = hsm.connect();
    admin.log_in("admin", Role::Admin, ADMIN_PASSWORD);
    admin.change_done(change_password("app", Role::CryptoUser, b"new-user-password"));
    assert!(guesser.open_login("app", Role::CryptoUser, b"new-user-password").is_ok());
}

#[test]
fn a_flood_of_guesses_from_one_source_is_slowed_down_before_it_is_counted() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    let delayed = (0..60).any(|guess| {
        let name = format!("user{guess}");
        client.open_login(&name, Role::CryptoUser, b"wrong guess").err() == Some(ErrorCode::LoginDelayed)
    });
    assert!(delayed);
}

#[test]
fn a_user_changes_his_own_password_by_an_empty_name() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    assert_eq!(client.change(change_password("", Role::CryptoUser, b"1234567")).err(), Some(ErrorCode::PasswordRule));
    client.change_done(change_password("", Role::CryptoUser, b"my-new-password"));
    assert!(client.make_pair(true).1.token_object > 0, "his own session goes on");
    let mut other = hsm.connect();
    assert!(other.open_login("app", Role::CryptoUser, USER_PASSWORD).is_err());
    assert!(other.open_login("app", Role::CryptoUser, b"my-new-password").is_ok());
    assert_eq!(
        client.change(change_password("admin", Role::Admin, b"my-new-password")).err(),
        Some(ErrorCode::RoleRefused)
    );
}

#[test]
fn a_retried_creation_of_a_user_gets_the_first_answer() {
    let hsm = Hsm::active();
    let mut admin = hsm.connect();
    admin.log_in("admin", Role::Admin, ADMIN_PASSWORD);
    let create = request::Body::CreateUser(wire::CreateUser {
        name: "third".into(),
        role: Role::CryptoUser as u32,
        password: USER_PASSWORD.to_vec(),
    });
    assert!(admin.change(create.clone()).is_ok());
    assert!(admin.change_again(create.clone()).is_ok(), "the same number is the same call");
    assert_eq!(admin.change(create).err(), Some(ErrorCode::UserExists));
}

#[test]
fn disabling_a_user_ends_his_sessions_at_once() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(true);
    let mut admin = hsm.connect();
    admin.log_in("admin", Role::Admin, ADMIN_PASSWORD);
    let enable = |enabled| {
        request::Body::SetUserEnabled(wire::SetUserEnabled {
            name: "app".into(),
            role: Role::CryptoUser as u32,
            enabled,
        })
    };
    admin.change_done(enable(false));
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::NotLoggedIn));
    assert_eq!(client.open_login("app", Role::CryptoUser, USER_PASSWORD).err(), Some(ErrorCode::UserDisabled));
    admin.change_done(enable(true));
    client.log_in("app", Role::CryptoUser, USER_PASSWORD);
    assert!(client.sign(&key, b"data").is_ok());
}
