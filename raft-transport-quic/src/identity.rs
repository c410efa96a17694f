//! The name in a certificate: `raft://<cluster>/node/<id>`, as a URI among its subject alternative names.

use raft_core::types::{ClusterId, NodeId};
use rustls_pki_types::CertificateDer;

/// Whom a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
}

/// Why a certificate names no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it carries no name of the form raft://<cluster>/node/<id>")]
    Nameless,
    #[error("it carries more than one raft:// name")]
    Ambiguous,
    #[error("its name {0:?} is not of the form raft://<cluster>/node/<id>")]
    NotANode(String),
}

impl Identity {
    /// The name as it stands in a certificate.
    pub(crate) fn uri(&self) -> String {
        format!("raft://{}/node/{}", self.cluster, self.node)
    }

    /// Reads the name. Does not verify the certificate: that is the handshake's part.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let name = raft_name(certificate)?;
        Self::parse(&name).ok_or(IdentityError::NotANode(name))
    }

    fn parse(uri: &str) -> Option<Self> {
        let (cluster, node) = uri.strip_prefix("raft://")?.split_once("/node/")?;
        let identity = Self { cluster: cluster.parse().ok()?, node: NodeId(node.parse().ok()?) };
        // One spelling only: no upper case, signs or leading zeros.
        (identity.uri() == uri).then_some(identity)
    }
}

/// The one `raft://` name of a certificate.
pub(crate) fn raft_name(certificate: &CertificateDer<'_>) -> Result<String, IdentityError> {
    let certificate = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| IdentityError::Unreadable(error.to_string()))?;
    let mut names = certificate.valid_uri_names().filter(|name| name.starts_with("raft://"));
    let name = names.next().ok_or(IdentityError::Nameless)?;
    if names.next().is_some() {
        return Err(IdentityError::Ambiguous);
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let identity = Identity { cluster: ClusterId(0xab), node: NodeId(7) };
        assert_eq!(identity.uri(), "raft://000000000000000000000000000000ab/node/7");
        assert_eq!(Identity::parse(&identity.uri()), Some(identity));
        for other in [
            "raft://000000000000000000000000000000AB/node/7",
            "raft://000000000000000000000000000000ab/node/07",
            "raft://000000000000000000000000000000ab/node/+7",
            "raft://000000000000000000000000000000ab/node/7/",
            "raft://000000000000000000000000000000ab/node/",
            "raft://000000000000000000000000000000ab/client/7",
            "raft://ab/node/7",
            "https://000000000000000000000000000000ab/node/7",
        ] {
            assert_eq!(Identity::parse(other), None, "{other}");
        }
    }
}
