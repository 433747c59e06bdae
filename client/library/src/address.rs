//! Where an HSM listens: `host:port`, or the path of a Unix socket.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// One place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// TLS over TCP. The host is a name or an address, without the brackets of IPv6.
    Tcp { host: String, port: u16 },
    /// Plain frames over a Unix socket; the HSM reads who we are from the socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `host:port`, `a.b.c.d:port` or `[v6]:port`. The error is a sentence for a person.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not host:port (IPv6: [address]:port)");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        if host.is_empty() || port == 0 || host.contains(|character: char| character.is_whitespace()) {
            return Err(wrong());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }

    /// Whether it names a place: what an HSM listens at (`0.0.0.0`, `::`) may name every place of its host, and none here.
    pub(crate) fn leads_somewhere(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => !host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for good in ["127.0.0.1:2223", "[::1]:1", "hsm-1.example:65535"] {
            assert_eq!(Address::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "host", "host:", ":1", "host:0", "host:65536", "::1:2223", "[::1:5", "a b:1"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
