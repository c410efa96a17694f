//! A certificate authority for development and tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raft_core::types::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::credentials::{CA_FILE, Credentials, CredentialsError};
use crate::identity::{Identity, raft_name};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Tolerates clocks that are behind.
const BACKDATED: Duration = DAY;
/// Long enough that no development cluster stops for it.
const VALIDITY: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// A certificate authority of one cluster, for development and tests. Its private key lies in memory and in what
/// [`Self::ca_key_pem`] returns: whoever has it can be any node of the cluster.
///
/// ```
/// use raft_core::types::{ClusterId, NodeId};
/// use raft_transport_quic::DevCa;
///
/// let ca = DevCa::new(ClusterId(42))?;
/// let credentials = ca.issue(NodeId(1))?;
/// assert_eq!((credentials.cluster(), credentials.node()), (ClusterId(42), NodeId(1)));
/// # Ok::<(), raft_transport_quic::CredentialsError>(())
/// ```
#[derive(Debug)]
pub struct DevCa {
    cluster: ClusterId,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl DevCa {
    /// Makes an authority for `cluster` with a fresh key.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn new(cluster: ClusterId) -> Result<Self, CredentialsError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(format!("raft {cluster} development CA"), ca_name(cluster))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { cluster, ca_pem, issuer: Issuer::new(params, key) })
    }

    /// Takes up an authority again, to issue certificates for further nodes.
    ///
    /// # Errors
    /// Where the texts are not those of an authority made by [`Self::new`].
    pub fn from_pem(ca_pem: &str, ca_key_pem: &str) -> Result<Self, CredentialsError> {
        let unusable = |reason: String| CredentialsError::Pem { what: CA_FILE, reason };
        let der =
            CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let name = raft_name(&der).map_err(|error| unusable(error.to_string()))?;
        let cluster = name
            .strip_prefix("raft://")
            .and_then(|rest| rest.strip_suffix("/ca"))
            .and_then(|cluster| cluster.parse().ok())
            .ok_or_else(|| unusable(format!("{name:?} is not a development authority's name")))?;
        let key = KeyPair::from_pem(ca_key_pem).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(failed)?;
        let ca = Self { cluster, ca_pem: ca_pem.to_owned(), issuer };
        // A key of another authority shows only in what it signs.
        ca.issue(NodeId(0))?;
        Ok(ca)
    }

    /// The cluster that it issues certificates for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its certificate: what every node trusts.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Its private key. Keep it secret.
    pub fn ca_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a certificate to `node`, with a fresh key.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn issue(&self, node: NodeId) -> Result<Credentials, CredentialsError> {
        let (certificate, key) = self.issue_pem(node)?;
        Credentials::from_pem(&self.ca_pem, &certificate, &key)
    }

    /// As [`Self::issue`], as PEM texts: the certificate and its private key.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_pem(&self, node: NodeId) -> Result<(String, String), CredentialsError> {
        let key = KeyPair::generate().map_err(failed)?;
        let name = Identity { cluster: self.cluster, node }.uri();
        let mut params = params(format!("raft {} node {node}", self.cluster), name)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn ca_name(cluster: ClusterId) -> String {
    format!("raft://{cluster}/ca")
}

fn params(common_name: String, name: String) -> Result<CertificateParams, CredentialsError> {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(name.try_into().map_err(failed)?)];
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + VALIDITY;
    Ok(params)
}

fn failed(error: rcgen::Error) -> CredentialsError {
    CredentialsError::Authority(error.to_string())
}
