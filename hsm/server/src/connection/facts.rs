//! What is known of a live connection besides its bytes: for policy changes, and for the rate limit of logins.

use std::net::IpAddr;

use crate::peer::Source;

/// A live connection, as [`crate::dispatch::Service::close_all`] shows it to whoever decides whether it may stay.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// The other end.
    pub source: Source,
    /// The certificate that the client proved to own (DER, end entity), if it presented one.
    pub client_certificate: Option<Vec<u8>>,
}

/// What the rate limit of logins counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// An address; IPv6 by its network of 64 bits, since one host has all of that.
    Address(IpAddr),
    /// A user of this host.
    User(u32),
}

impl Origin {
    pub(crate) fn of(source: Source) -> Self {
        match source {
            Source::Network(address) => Self::Address(match address.ip().to_canonical() {
                IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
                address @ IpAddr::V4(_) => address,
            }),
            Source::Local(credentials) => Self::User(credentials.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let origin = |address: &str| Origin::of(Source::Network(address.parse().unwrap()));
        assert_eq!(origin("[2001:db8::1]:5"), origin("[2001:db8::ffff:2]:6"));
        assert_ne!(origin("[2001:db8::1]:5"), origin("[2001:db8:0:1::1]:5"));
        assert_eq!(origin("[::ffff:192.0.2.1]:1"), origin("192.0.2.1:2"));
    }
}
