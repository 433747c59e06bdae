//! Certificate authorities of an installation, made by the system's OpenSSL as AWS's guide does it.
//!
//! Two of them: the customer's, which signs the cluster's certificate, and the clients', whose certificates the cluster
//! requires. They could be one; two show that they need not be.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Installation;
use super::files::{Readers, private_folder};
use crate::workspace::capture;

/// Days that the certificates of an installation live: AWS's guide uses ten years.
const DAYS: &str = "3652";

/// An authority by its file name.
#[derive(Clone, Copy)]
pub(super) struct Authority {
    file: &'static str,
    subject: &'static str,
}

/// Signs the cluster's certificate.
pub(super) const CUSTOMER: Authority = Authority { file: "customerCA", subject: "/CN=Customer CA of quickstart" };

/// Signs the clients' certificates.
pub(super) const CLIENTS: Authority = Authority { file: "clientCA", subject: "/CN=Client CA of quickstart" };

impl Installation {
    /// File of an authority's self-signed certificate.
    pub(super) fn authority_certificate(&self, authority: Authority) -> PathBuf {
        self.admin().join(format!("{}.crt", authority.file))
    }

    fn authority_key(&self, authority: Authority) -> PathBuf {
        self.admin().join(format!("{}.key", authority.file))
    }

    /// Makes an authority that is not there yet: RSA-2048 and a self-signed certificate.
    pub(super) fn make_authority(&self, authority: Authority) -> Result<()> {
        private_folder(&self.admin())?;
        let (certificate, key) = (self.authority_certificate(authority), self.authority_key(authority));
        if certificate.is_file() && key.is_file() {
            return Ok(());
        }
        let mut command = openssl();
        command.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", DAYS]);
        command.args(["-config", self.request_configuration()?.as_str(), "-extensions", "authority"]);
        command.args(["-subj", authority.subject]).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        capture(&mut command)?;
        Readers::Owner.give(&key)
    }

    /// Signs the request of the cluster. The result is what AWS's documented command makes: an end-entity certificate
    /// without names, X.509 v1 with the OpenSSL of today.
    pub(super) fn sign_cluster_request(&self, request: &Path, certificate: &Path) -> Result<()> {
        let mut command = self.sign(CUSTOMER, request, certificate);
        capture(&mut command)?;
        Ok(())
    }

    /// Makes a client's key and certificate in `client/`, unless they are there.
    pub(super) fn make_client_certificate(&self) -> Result<()> {
        self.make_authority(CLIENTS)?;
        let (certificate, key) = (self.client().join("client.crt"), self.client().join("client.key"));
        if certificate.is_file() && key.is_file() {
            return Ok(());
        }
        let request = self.admin().join("client.csr");
        let mut command = openssl();
        command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256"]);
        command.args(["-config", self.request_configuration()?.as_str(), "-subj", "/CN=client of quickstart"]);
        capture(command.arg("-keyout").arg(&key).arg("-out").arg(&request))?;
        let mut command = self.sign(CLIENTS, &request, &certificate);
        capture(command.args(["-extfile", self.request_configuration()?.as_str(), "-extensions", "client"]))?;
        Ok(())
    }

    fn sign(&self, authority: Authority, request: &Path, certificate: &Path) -> Command {
        let mut command = openssl();
        command.args(["x509", "-req", "-sha256", "-days", DAYS, "-CAcreateserial"]).arg("-in").arg(request);
        command.arg("-CA").arg(self.authority_certificate(authority));
        command.arg("-CAkey").arg(self.authority_key(authority)).arg("-out").arg(certificate);
        command
    }

    /// What `openssl req` and `x509` read instead of the system's configuration, which a bare machine may lack.
    fn request_configuration(&self) -> Result<String> {
        const TEXT: &str = "[req]\ndistinguished_name = name\n[name]\n[authority]\nbasicConstraints = critical,CA:true\n\
            keyUsage = critical,keyCertSign,cRLSign\nsubjectKeyIdentifier = hash\n[client]\nbasicConstraints = CA:false\n\
            keyUsage = critical,digitalSignature\nextendedKeyUsage = clientAuth\n";
        let path = self.admin().join("openssl.cnf");
        std::fs::write(&path, TEXT).with_context(|| format!("{} cannot be written", path.display()))?;
        path.into_os_string().into_string().ok().context("the folder's path is no UTF-8, which openssl needs")
    }
}

/// OpenSSL with none of the caller's engines or providers.
fn openssl() -> Command {
    let mut command = Command::new("openssl");
    command.env_remove("OPENSSL_CONF").env_remove("OPENSSL_MODULES").env_remove("OPENSSL_ENGINES");
    command
}
