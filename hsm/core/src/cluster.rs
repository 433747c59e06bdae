//! What a cluster has one of.

use hsm_protocol::Lifecycle;
use serde::{Deserialize, Serialize};

use crate::command::CeremonyCertificates;
use crate::ids::{ClusterId, Epoch, Incarnation};
use crate::limits::Quotas;
use crate::roster::ClusterPolicy;

/// Identity, mode, lifecycle and certificates of the cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its name for ever.
    pub cluster: ClusterId,
    /// Its present history.
    pub incarnation: Incarnation,
    /// Mode FIPS or NON_FIPS, for ever.
    pub fips: bool,
    /// Token label.
    pub label: String,
    /// Epoch of the cluster master key.
    pub epoch: Epoch,
    /// Where it stands.
    pub lifecycle: Lifecycle,
    /// The activation password under the cluster's keys; empty once the cluster is active.
    #[serde(with = "serde_bytes")]
    pub sealed_activation_password: Vec<u8>,
    /// The cluster's TLS key under the cluster's keys.
    #[serde(with = "serde_bytes")]
    pub sealed_cluster_key: Vec<u8>,
    /// Certificates of the ceremony.
    pub ceremony: CeremonyCertificates,
    /// The customer's certificate for the cluster key, PEM; empty before initialisation.
    pub certificate: String,
    /// The customer's anchor, PEM; empty before initialisation.
    pub trust_anchor: String,
    /// Anchors for client certificates.
    pub client_anchors: Vec<ClientAnchor>,
    /// Whether clients must present a certificate.
    pub client_certificates_required: bool,
    /// How much the cluster may hold.
    pub quotas: QuotaProfile,
    /// The version of commands that is in use: every member's program knows it. Never falls.
    pub version: u32,
    /// What admins decided about the cluster as a whole.
    pub policy: ClusterPolicy,
    /// An HSM was removed that knows the master key of this epoch: the next one is due.
    pub epoch_due: bool,
    /// A new TLS key under the cluster's keys, for which the customer's CA has not signed yet; empty when there is none.
    #[serde(with = "serde_bytes")]
    pub sealed_next_cluster_key: Vec<u8>,
}

/// How much a cluster may hold, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaProfile {
    /// [`Quotas::OURS`].
    #[default]
    Ours,
    /// [`Quotas::AWS_HSM2M`], for those who test against AWS CloudHSM's limits.
    AwsHsm2m,
}

impl QuotaProfile {
    /// The numbers.
    pub fn quotas(self) -> Quotas {
        match self {
            Self::Ours => Quotas::OURS,
            Self::AwsHsm2m => Quotas::AWS_HSM2M,
        }
    }
}

/// An anchor for client certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientAnchor {
    /// Its reference, never used twice. From 1.
    pub reference: u32,
    /// PEM.
    pub certificate: String,
}
