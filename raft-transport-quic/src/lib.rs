#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod accept;
mod credentials;
#[cfg(feature = "dev-ca")]
mod dev_ca;
mod dial;
mod fault;
mod hello;
mod identity;
mod inbound;
mod lane;
mod link;
mod options;
mod peers;
mod shared;
mod snapshot;
mod stats;
mod sync;
mod tls;
mod transport;

pub use credentials::{CA_FILE, CERTIFICATE_FILE, Credentials, CredentialsError, KEY_FILE};
#[cfg(feature = "dev-ca")]
pub use dev_ca::DevCa;
pub use options::QuicOptions;
pub use stats::QuicStats;
pub use transport::QuicTransport;
