//! What a node proves itself with: a private key, its certificate, and the authorities that it trusts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::types::{ClusterId, NodeId};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::identity::Identity;
use crate::tls;

/// The file of the trusted authorities in [`Credentials::load`].
pub const CA_FILE: &str = "ca.pem";
/// The file of the node's certificate in [`Credentials::load`].
pub const CERTIFICATE_FILE: &str = "node.pem";
/// The file of the node's private key in [`Credentials::load`].
pub const KEY_FILE: &str = "node.key";

/// A node's private key, its certificate and the certificate authorities that it trusts. Cloning is cheap.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
}

impl Credentials {
    /// Reads credentials from PEM text: `ca` holds the trusted authorities, `certificate` the node's certificate (and
    /// intermediate ones after it), `key` its private key.
    ///
    /// # Errors
    /// Where a text does not hold what it should, the key is another certificate's, or the certificate is not valid now,
    /// not issued by one of the authorities, or does not name a node as `raft://<cluster>/node/<id>`.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(CA_FILE, ca)? {
            roots.add(authority).map_err(|error| CredentialsError::Pem {
                what: CA_FILE,
                reason: format!("it holds no usable certificate authority: {error}"),
            })?;
        }
        let chain = certificates(CERTIFICATE_FILE, certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| CredentialsError::Pem {
            what: KEY_FILE,
            reason: format!("it holds no private key: {error}"),
        })?;
        Self::new(roots, chain, key)
    }

    fn new(
        roots: RootCertStore,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialsError> {
        let provider = tls::provider();
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CredentialsError::KeyMismatch,
            other => CredentialsError::Pem { what: KEY_FILE, reason: other.to_string() },
        })?;
        let (certificate, intermediates) =
            chain.split_first().ok_or_else(|| no_certificate(CERTIFICATE_FILE))?;
        tls::verify_chain(&roots, certificate, intermediates, UnixTime::now(), &provider)
            .map_err(|error| CredentialsError::Untrusted(error.to_string()))?;
        let identity =
            Identity::of(certificate).map_err(|error| CredentialsError::Nameless(error.to_string()))?;
        Ok(Self { identity, roots: Arc::new(roots), chain, key: Arc::new(key) })
    }

    /// Reads [`CA_FILE`], [`CERTIFICATE_FILE`] and [`KEY_FILE`] from `folder`.
    ///
    /// # Errors
    /// As [`Self::from_pem`], and where a file cannot be read.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, CredentialsError> {
        let read = |name: &str| {
            let path = folder.as_ref().join(name);
            std::fs::read_to_string(&path)
                .map_err(|error| CredentialsError::Unreadable { path, reason: error.to_string() })
        };
        Self::from_pem(&read(CA_FILE)?, &read(CERTIFICATE_FILE)?, &read(KEY_FILE)?)
    }

    /// The cluster that the certificate names.
    pub fn cluster(&self) -> ClusterId {
        self.identity.cluster
    }

    /// The node that the certificate names.
    pub fn node(&self) -> NodeId {
        self.identity.node
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.identity.uri())
    }
}

/// Why [`Credentials`] cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read {}: {reason}; a node needs {CA_FILE}, {CERTIFICATE_FILE} and {KEY_FILE}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A text is not the PEM that it should be.
    #[error("{what} is not usable: {reason}")]
    Pem {
        /// Which one, by its file's usual name.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key belongs to another certificate.
    #[error("{KEY_FILE} is not the key of {CERTIFICATE_FILE}: take both from the same issue")]
    KeyMismatch,
    /// The certificate is expired, not yet valid, or not issued by an authority of ours.
    #[error("{CERTIFICATE_FILE} is not valid under {CA_FILE}: {0}; issue a new one")]
    Untrusted(String),
    /// The certificate does not name a node.
    #[error("{CERTIFICATE_FILE} is not a node's certificate: {0}")]
    Nameless(String),
    /// The development authority could not make a key or a certificate, or its own are not usable.
    #[error("the certificate authority failed: {0}")]
    Authority(String),
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CredentialsError::Pem { what, reason: error.to_string() })?;
    if certificates.is_empty() { Err(no_certificate(what)) } else { Ok(certificates) }
}

fn no_certificate(what: &'static str) -> CredentialsError {
    CredentialsError::Pem { what, reason: "it holds no certificate".to_owned() }
}
