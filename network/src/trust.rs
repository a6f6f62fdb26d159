//! Whom to believe: the secret, the limits on strangers, and whether TLS is spoken.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use crate::secret::Secret;
use crate::session::Nonce;

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// No: the two ends know each other, and whoever is between them can read and alter what they say.
    #[default]
    Off,
    /// TLS 1.3, in a build with the feature `tls`. Both ends must have it on.
    On,
}

/// Whom to believe, and how much patience to have with those that are not believed yet.
#[derive(Clone, Debug)]
pub struct Trust {
    /// What a peer must know. None only between processes of one host: any user of that host may then join.
    pub secret: Option<Arc<Secret>>,
    /// How long a handshake may take, from the first to the last byte.
    pub handshake_max: Duration,
    /// Connections that may be in their handshake at once.
    pub pending_max: usize,
    /// Of these, how many from one address (one /64 network of IPv6). They may be more for a tenth of a second, while there is
    /// room: processes of one host call together.
    pub per_address_max: usize,
    /// Whether connections are encrypted.
    pub tls: Tls,
}

impl Trust {
    /// Trust in those who know this secret. Without TLS, and with limits for a cluster: 2 s for a handshake, 256 at once, 64 of
    /// them from one address.
    #[must_use]
    pub fn new(secret: Secret) -> Trust {
        Trust { secret: Some(Arc::new(secret)), ..Trust::of_one_host() }
    }

    /// Trust in everybody on this host, and in nobody else.
    #[must_use]
    pub fn of_one_host() -> Trust {
        Trust {
            secret: None,
            handshake_max: Duration::from_secs(2),
            pending_max: 256,
            per_address_max: 64,
            tls: Tls::Off,
        }
    }

    /// These limits, with TLS on.
    #[must_use]
    pub fn with_tls(self) -> Trust {
        Trust { tls: Tls::On, ..self }
    }

    /// The secret for a connection between this host and that address; none, if there should be one.
    pub(crate) fn secret_for(&self, address: IpAddr) -> Option<Arc<Secret>> {
        match &self.secret {
            Some(secret) => Some(secret.clone()),
            None => address.to_canonical().is_loopback().then(|| Arc::new(Secret::none())),
        }
    }
}

/// What a name and a port stand for.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(found),
    }
}

/// A number for one handshake.
pub(crate) fn nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(io::Error::from)?;
    Ok(nonce)
}
