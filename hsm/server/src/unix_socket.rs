//! Unix sockets of this process: bound with a mode, and cleared of what a dead process left.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::command_line::SocketAccess;
use crate::exit::Fault;

/// Binds a Unix socket with this mode. What a dead process left was removed by [`clear_stale`].
pub(crate) fn bind(path: &Path, access: SocketAccess) -> Result<UnixListener, Fault> {
    let mode = match access {
        SocketAccess::Owner => 0o600,
        SocketAccess::Group => 0o660,
        SocketAccess::Everyone => 0o666,
    };
    // The umask of the process makes it private until the mode is set.
    let bound = UnixListener::bind(path).map_err(|error| listen(path.display(), &error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| listen(path.display(), &error))?;
    Ok(bound)
}

/// Removes a socket that a dead process left. Connects to find out, so it must come before the sandbox.
///
/// # Errors
/// [`Fault::Listen`] when somebody answers, or something else than a socket has the name.
pub(crate) fn clear_stale(path: &Path) -> Result<(), Fault> {
    match UnixStream::connect(path) {
        Ok(_) => Err(Fault::Listen {
            address: path.display().to_string(),
            cause: "another process answers there; stop it, or use another path".to_owned(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket(path) => {
            std::fs::remove_file(path).map_err(|error| listen(path.display(), &error))
        }
        Err(error) => Err(listen(path.display(), &error)),
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket())
}

pub(crate) fn listen(address: impl std::fmt::Display, error: &std::io::Error) -> Fault {
    Fault::Listen { address: address.to_string(), cause: error.to_string() }
}
