//! What clients come in by: the TLS listener, the Unix socket, and the TLS configuration for new connections.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use hsm_core::ClusterRecord;
use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::connection::{serve_tls, serve_unix};
use crate::dispatch::Service;
use crate::exit::Fault;
use crate::listener::Listener;
use crate::member::stopped;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::tls::{self, ClientCertificates};
use crate::unix_socket::{self, listen};

/// Closed by default.
#[derive(Default)]
pub(crate) struct Doors {
    tls: Option<Arc<RwLock<Arc<rustls::ServerConfig>>>>,
    clients: ClientCertificates,
    certificate: String,
    listeners: Vec<Listener>,
    address: Option<SocketAddr>,
}

/// Whether the address for clients is free, before anything is begun that needs it.
///
/// # Errors
/// As [`Doors::open`].
pub(crate) fn check_free(settings: &Settings) -> Result<(), Fault> {
    TcpListener::bind(settings.listen()).map(drop).map_err(|error| listen(settings.listen(), &error))
}

impl Doors {
    /// Where clients come in over TLS, once they may.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Opens, or follows a change of the cluster's certificate or of the rule for client certificates. Says whether that
    /// rule changed for those who are inside.
    pub(crate) fn open(
        &mut self,
        record: &ClusterRecord,
        settings: &Settings,
        metrics: &Arc<Metrics>,
        service: &Arc<Service>,
        key: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, Fault>,
    ) -> Result<bool, Fault> {
        let clients = client_rule(record);
        if self.tls.is_some() && self.clients == clients && self.certificate == record.certificate {
            return Ok(false);
        }
        let configuration =
            tls::server_configuration(&record.certificate, key()?, &clients).map_err(|fault| stopped(&fault))?;
        let rule_changed = self.tls.is_some() && self.clients != clients;
        match &self.tls {
            Some(current) => *current.write() = configuration,
            None => self.open_listeners(configuration, settings, metrics, service)?,
        }
        self.clients = clients;
        self.certificate.clone_from(&record.certificate);
        tracing::info!(client_certificates = self.clients.required, "TLS is set up");
        Ok(rule_changed)
    }

    fn open_listeners(
        &mut self,
        configuration: Arc<rustls::ServerConfig>,
        settings: &Settings,
        metrics: &Arc<Metrics>,
        service: &Arc<Service>,
    ) -> Result<(), Fault> {
        let listener = TcpListener::bind(settings.listen()).map_err(|error| listen(settings.listen(), &error))?;
        let address = listener.local_addr().map_err(|error| listen(settings.listen(), &error))?;
        let current = Arc::new(RwLock::new(configuration));
        let (for_tls, tls) = (Arc::clone(service), Arc::clone(&current));
        let serve = Arc::new(move |stream, peer| {
            let configuration = Arc::clone(&tls.read());
            serve_tls(&for_tls, stream, configuration, peer);
        });
        let mut listeners = vec![
            Listener::start_tls(listener, settings.connections(), Arc::clone(metrics), serve)
                .map_err(|error| listen(address, &error))?,
        ];
        if let Some((path, access)) = settings.unix_socket() {
            let listener = unix_socket::bind(path, access)?;
            let for_unix = Arc::clone(service);
            let serve = Arc::new(move |stream, peer| serve_unix(&for_unix, stream, peer));
            listeners.push(
                Listener::start_unix(listener, Arc::clone(metrics), serve)
                    .map_err(|error| listen(path.display(), &error))?,
            );
        }
        self.listeners = listeners;
        self.tls = Some(current);
        self.address = Some(address);
        tracing::info!(%address, socket = ?settings.unix_socket().map(|(path, _)| path), "clients may connect");
        Ok(())
    }

    /// Lets nobody in any more. Those who are inside stay.
    pub(crate) fn close(&mut self, settings: &Settings) {
        drop(std::mem::take(self));
        if let Some((path, _)) = settings.unix_socket()
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "the client socket was not removed");
        }
    }
}

fn client_rule(record: &ClusterRecord) -> ClientCertificates {
    if !record.client_certificates_required {
        return ClientCertificates::default();
    }
    let anchors = record.client_anchors.iter().map(|anchor| anchor.certificate.clone()).collect();
    ClientCertificates { required: true, anchors }
}
