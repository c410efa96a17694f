//! `/metrics`: what a node has measured and how it is, for Prometheus, as OpenMetrics text.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use raft_core::RaftStatus;
use raft_core::engine::RoleName;
use raft_core::runtime::{Distribution, Metrics};

use super::server::refuse;
use super::{ErrorCode, TransportBody};
use crate::command::Summary;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One look at a node.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) status: RaftStatus,
    pub(super) metrics: Metrics,
    pub(super) summary: Summary,
    pub(super) transport: Option<TransportBody>,
}

impl Look {
    pub(super) fn response(self) -> Response {
        let mut registry = Registry::with_prefix("raft");
        registry.register_collector(Box::new(self));
        let mut body = String::new();
        match text::encode(&mut body, &registry) {
            Ok(()) => {
                let mut response = Response::new(Body::from(body));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
                response
            }
            Err(error) => refuse(ErrorCode::Failed, error.to_string()),
        }
    }
}

impl Collector for Look {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { status, metrics, summary, transport } = self;
        let mut out = Out(&mut encoder);
        out.gauge("term", "The term", &status.term)?;
        out.gauge("is_leader", "1 on the leader", &u32::from(status.role == RoleName::Leader))?;
        out.gauge("knows_leader", "1 where a leader is known", &u32::from(status.leader.is_some()))?;
        out.gauge(
            "has_stopped",
            "1 where the group has stopped for good",
            &u32::from(status.fatal.is_some()),
        )?;
        out.gauge("commit_index", "The highest index known to be committed", &status.commit)?;
        out.gauge("applied_index", "The highest index applied", &status.applied)?;
        out.gauge("durable_index", "The highest index durable on this node", &status.durable)?;
        out.gauge("last_index", "The index of the last entry", &status.last.index)?;
        out.gauge(
            "snapshot_index",
            "The last index that the newest snapshot covers",
            &status.snapshot.index,
        )?;
        out.gauge(
            "apply_backlog_bytes",
            "Bytes handed to the state machine and not applied",
            &(status.apply_backlog_bytes as u64),
        )?;
        out.gauge("keys", "The keys in this node's state", &summary.keys)?;
        out.gauge(
            "voters",
            "The voters of the configuration in force",
            &(status.membership.voters.len() as u64),
        )?;
        let peers = || status.peers.iter();
        out.gauges(
            "peer_matched_index",
            "How far a peer holds the log durably, on the leader",
            "peer",
            peers().map(|(node, peer)| (node.to_string(), peer.matched)),
        )?;
        out.gauges(
            "peer_inflight_bytes",
            "Bytes of entries on their way to a peer, on the leader",
            "peer",
            peers().map(|(node, peer)| (node.to_string(), peer.inflight_bytes as u64)),
        )?;
        out.gauges(
            "peer_is_active",
            "1 where a peer answers, on the leader",
            "peer",
            peers().map(|(node, peer)| (node.to_string(), u64::from(peer.active))),
        )?;
        let sending = status.snapshots.sending.iter();
        out.gauges(
            "snapshot_sent_bytes",
            "Bytes of the snapshot on its way to a peer that are there",
            "peer",
            sending.map(|(node, sending)| (node.to_string(), sending.bytes)),
        )?;
        let counters = &status.counters;
        out.counters(
            "events",
            "What happened in the engine",
            "event",
            metrics.events.iter().map(|(name, count)| ((*name).to_owned(), *count)),
        )?;
        out.counters(
            "refused_messages",
            "Messages that the protocol refused",
            "reason",
            counters.refused.iter().map(|(reason, count)| (reason.to_string(), *count)),
        )?;
        out.counter(
            "dropped_messages",
            "Received messages dropped for want of room",
            counters.dropped_messages,
        )?;
        out.counter("overloaded_calls", "Calls answered with Overloaded", counters.overloaded)?;
        out.counter("expired_calls", "Calls given up because their time was over", counters.expired)?;
        if let Some(transport) = transport {
            out.counter("sent_bytes", "Bytes of messages sent to the other nodes", transport.sent_bytes)?;
            out.counter("received_bytes", "Bytes of messages received from them", transport.received_bytes)?;
            out.counter("unsent_messages", "Messages for which there was no way or room", transport.dropped)?;
        }
        out.histogram(
            "propose_to_commit_seconds",
            "From a proposal, on the leader, until it was committed",
            &metrics.propose_to_commit,
        )?;
        out.histogram(
            "commit_to_apply_seconds",
            "From the commit until the batch was applied",
            &metrics.commit_to_apply,
        )?;
        out.histogram("log_write_seconds", "A write to the log until it was durable", &metrics.write)?;
        out.histogram(
            "append_round_trip_seconds",
            "From a heartbeat to its answer, on the leader",
            &metrics.append_round_trip,
        )
    }
}

struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: &impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            encoder.encode_family(&[(label, of)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            encoder.encode_family(&[(label, of)])?.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, measured: &Distribution) -> fmt::Result {
        let bound =
            |bound: Duration| if bound == Duration::MAX { f64::INFINITY } else { bound.as_secs_f64() };
        let buckets: Vec<(f64, u64)> =
            measured.buckets.iter().map(|&(at, count)| (bound(at), count)).collect();
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(measured.sum.as_secs_f64(), measured.count(), &buckets, None)
    }
}
