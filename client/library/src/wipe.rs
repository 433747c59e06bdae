//! Passwords in requests do not stay behind in the memory of the application.

use hsm_protocol::wire::request::Body;
use zeroize::Zeroize;

/// Overwrites the password of a request that has been encoded. Says whether there was one, so that the encoded frame is
/// overwritten as well once it has been encrypted.
pub(crate) fn wipe_secrets(body: &mut Body) -> bool {
    match body {
        Body::Login(message) => message.password.zeroize(),
        Body::CreateUser(message) => message.password.zeroize(),
        Body::ChangePassword(message) => message.password.zeroize(),
        Body::Activate(message) => {
            message.activation_password.zeroize();
            message.password.zeroize();
        }
        Body::Operate(message) if !message.context_password.is_empty() => message.context_password.zeroize(),
        Body::Stream(message) => match &mut message.begin {
            Some(begin) if !begin.context_password.is_empty() => begin.context_password.zeroize(),
            _ => return false,
        },
        _ => return false,
    }
    true
}
