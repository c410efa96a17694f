//! The settings of a transport, each with its unit and the reason for its default.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use raft_core::transport::TransportError;

use crate::inbound::MAX_CONTROL_FRAME_BYTES;
use crate::snapshot::MAX_ON_THE_WAY_BYTES;

/// The smallest datagram that QUIC may count on.
const MIN_MTU: u16 = 1200;
/// Fits Ethernet and IPv6.
const ETHERNET_MTU: u16 = 1452;
/// Beyond this, batches of segments outgrow what the system takes in one call, and are lost in silence.
const MAX_MTU: u16 = 6500;

/// What a peer may have on its way to us in one stream: the bandwidth-delay product of 1 Gbit/s at 50 ms.
const STREAM_WINDOW_BYTES: u32 = 6 << 20;
/// The lanes.
const LANES: u32 = 2;
/// Snapshots that a peer may send to us at once, and that we send to it.
const MAX_SNAPSHOTS: u32 = 4;
/// For all streams of a connection together: room for each, so that neither a full append lane nor snapshots that nobody
/// reads hold the control lane up.
const CONNECTION_WINDOW_BYTES: u32 =
    STREAM_WINDOW_BYTES + MAX_CONTROL_FRAME_BYTES as u32 + MAX_SNAPSHOTS * MAX_ON_THE_WAY_BYTES as u32;
/// The same before the peer is admitted: it may say its hello, and nothing that we would have to keep.
const STRANGER_WINDOW_BYTES: u32 = 8 << 10;
/// The hello.
const STRANGER_STREAMS: u32 = 1;
/// The first guess of a round trip: a lost first packet is repeated after three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Keep-alives per idle timeout: several may be lost.
const KEEP_ALIVES_PER_TIMEOUT: u32 = 4;

/// Settings of a [`QuicTransport`](crate::QuicTransport). Take [`Self::default`] and change fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuicOptions {
    /// The address that peers reach this node at, `host:port`; a port of 0 stands for the one listened on. Default: the
    /// address listened on. Needed where that is a wildcard such as `0.0.0.0`.
    pub advertise: Option<String>,
    /// The most bytes of control messages that wait for one peer. Default: 4 MiB, some 40,000 messages.
    pub control_queue_bytes: usize,
    /// The most bytes of entries that wait for one peer; a single larger message still goes, alone. Default: 32 MiB,
    /// a few groups' full in-flight windows.
    pub append_queue_bytes: usize,
    /// How long a peer may be silent before its connection is given up and dialed anew. Default: 1 s: within an
    /// election timeout's range, so a link that was cut works again soon after it is back.
    pub idle_timeout: Duration,
    /// The most time for resolving a name, and again for connecting to each of its addresses, handshake and hello
    /// included. Default: 2 s: a closed port answers nothing, and a round trip may take 200 ms and lose a packet.
    pub connect_timeout: Duration,
    /// The longest wait between two attempts to connect; the wait starts at 50 ms, doubles, and is drawn from half of
    /// itself up to itself. Default: 1 s.
    pub max_backoff: Duration,
    /// The most connections that may be in handshake or hello at once; others are turned away. From half of it on,
    /// a stranger must first prove its address. Default: 64.
    pub max_handshakes: usize,
    /// The largest datagram to try for, from 1200 to 6500 bytes. Default: 1452, which fits Ethernet and IPv6, and 6500 to
    /// peers on the same machine. Where the network takes jumbo frames, 6500 halves the processor's work.
    pub max_mtu: Option<u16>,
    /// The socket's buffers to ask the system for, in each direction. Default: 4 MiB; the usual 200 KiB lose packets
    /// at every burst.
    pub socket_buffer_bytes: usize,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            advertise: None,
            control_queue_bytes: 4 << 20,
            append_queue_bytes: 32 << 20,
            idle_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            max_backoff: Duration::from_secs(1),
            max_handshakes: 64,
            max_mtu: None,
            socket_buffer_bytes: 4 << 20,
        }
    }
}

impl QuicOptions {
    pub(crate) fn validate(&self) -> Result<(), TransportError> {
        let wrong = |what: String| Err(TransportError::new(format!("QuicOptions: {what}")));
        if self.control_queue_bytes == 0 || self.append_queue_bytes == 0 {
            return wrong("a queue of 0 bytes sends nothing".to_owned());
        }
        if self.max_handshakes == 0 {
            return wrong("max_handshakes of 0 admits nobody".to_owned());
        }
        for (name, value) in [
            ("idle_timeout", self.idle_timeout),
            ("connect_timeout", self.connect_timeout),
            ("max_backoff", self.max_backoff),
        ] {
            if value < Duration::from_millis(10) || value > Duration::from_secs(3600) {
                return wrong(format!("{name} must be from 10 ms to an hour, and is {value:?}"));
            }
        }
        if let Some(max_mtu) = self.max_mtu
            && !(MIN_MTU..=MAX_MTU).contains(&max_mtu)
        {
            return wrong(format!("max_mtu must be from {MIN_MTU} to {MAX_MTU}, and is {max_mtu}"));
        }
        if let Some(address) = &self.advertise {
            let valid = address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !valid {
                return wrong(format!("advertise must be host:port, and is {address:?}"));
            }
        }
        Ok(())
    }

    /// What a datagram may hold at most that comes to us: what any peer tries for.
    pub(crate) fn receives_mtu(&self) -> u16 {
        self.max_mtu.unwrap_or(MAX_MTU)
    }

    /// How connections behave, to peers on this machine or elsewhere.
    pub(crate) fn transport_config(&self, local: bool) -> Result<Arc<TransportConfig>, TransportError> {
        let idle = IdleTimeout::try_from(self.idle_timeout)
            .map_err(|_| TransportError::new("QuicOptions: idle_timeout is too long"))?;
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.max_mtu.unwrap_or(if local { MAX_MTU } else { ETHERNET_MTU }));
        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.idle_timeout / KEEP_ALIVES_PER_TIMEOUT))
            .initial_rtt(INITIAL_RTT)
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
            .send_window(u64::from(CONNECTION_WINDOW_BYTES))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_concurrent_bidi_streams(VarInt::from_u32(STRANGER_STREAMS))
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(Some(mtu));
        Ok(Arc::new(config))
    }
}

/// Gives a connection whose peer is admitted the room that its lanes and snapshots need.
pub(crate) fn widen(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(LANES));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(MAX_SNAPSHOTS));
}
