//! The contract of [`Transport`] as cases that any transport can be put through.
//!
//! ```
//! use raft_core::mem::ChannelNetwork;
//! use raft_core::testing::suite::transport::Suite;
//!
//! let suite = Suite::new(|_cluster| {
//!     let network = ChannelNetwork::new(); // a new network: for one with certificates, an authority of the cluster
//!     move |node| network.transport(node) // makes the transport of a node, anew each time the node starts
//! });
//! # let suite = suite.only("delivery");
//! suite.run().assert_passed();
//! ```
//!
//! A failure names the case, the rule that it stands for, what was expected, what came, and the last steps. One case, or
//! one topic, by itself: `suite.only("streams/resume").run()`. [`cases`] lists them.
//!
//! Each case has a tokio runtime of its own, of two threads, with time and, if the program has tokio's feature `net`,
//! network. Addresses are the transport's own affair: let it take a free port and tell it by
//! [`address`](Transport::address). A message may be lost, so the cases send again what must arrive; a loss of more than
//! one in a hundred on a connection that stands is a failure all the same.
//!
//! What no suite can see is how a transport fares on a bad network: `raft-kv/tests/network.rs` shows how to find out, with
//! real processes behind a relay that loses, delays and cuts.

/// Functions of a topic's file as its cases, each with its rule.
macro_rules! cases {
    ($topic:ident: $($name:ident $rule:literal,)+) => {
        pub(super) const CASES: &[super::Case] = &[$(super::Case {
            topic: super::Topic::$topic,
            name: stringify!($name),
            rule: $rule,
            run: |bench| Box::pin($name(bench)),
        }),+];
    };
}

mod bench;
mod delivery;
mod doors;
mod lanes;
mod peers;
mod queues;
mod recorder;
mod stopping;
mod streams;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::report::panic_text;
use super::{Failure, Report};
use crate::config::MAX_ENTRY_BYTES_LIMIT;
use crate::transport::Transport;
use crate::types::{ClusterId, NodeId};
use bench::{Bench, Check, Limits, Network, Networks, Steps};

/// How long one step may take by default: far beyond any connecting again on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most that may wait for one peer by default.
const QUEUE_BYTES: usize = 64 << 20;

/// A case has many steps, and none is as slow as it may be.
const PATIENCE_PER_CASE: u32 = 4;

/// How long what is left of a case may take to end.
const CLEARING: Duration = Duration::from_millis(100);

/// What a group of cases is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Topic {
    /// What is sent arrives, and as it was.
    Delivery,
    /// Order within a lane, and one lane before the other.
    Lanes,
    /// `send` never blocks, and what waits is bounded.
    Queues,
    /// Peers that come back, move and go.
    Peers,
    /// Who is let in, and under which name.
    Doors,
    /// Streams for snapshots: transfer, break and resume.
    Streams,
    /// The end.
    Stopping,
}

impl Topic {
    /// Every topic, in the order in which they run.
    pub const ALL: [Self; 7] =
        [Self::Delivery, Self::Lanes, Self::Queues, Self::Peers, Self::Doors, Self::Streams, Self::Stopping];

    /// The topic's name, the first half of its cases' names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Lanes => "lanes",
            Self::Queues => "queues",
            Self::Peers => "peers",
            Self::Doors => "doors",
            Self::Streams => "streams",
            Self::Stopping => "stopping",
        }
    }

    const fn cases(self) -> &'static [Case] {
        match self {
            Self::Delivery => delivery::CASES,
            Self::Lanes => lanes::CASES,
            Self::Queues => queues::CASES,
            Self::Peers => peers::CASES,
            Self::Doors => doors::CASES,
            Self::Streams => streams::CASES,
            Self::Stopping => stopping::CASES,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

type Run = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = Check> + Send + 'a>>;

/// One case: shown as `topic/name`.
pub struct Case {
    topic: Topic,
    name: &'static str,
    rule: &'static str,
    run: Run,
}

impl Case {
    /// What it is about.
    pub const fn topic(&self) -> Topic {
        self.topic
    }

    /// Its name within the topic.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The sentence of the contract that it stands for.
    pub const fn rule(&self) -> &'static str {
        self.rule
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.name)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Case({self})")
    }
}

/// Every case, topic by topic.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    Topic::ALL.into_iter().flat_map(|topic| topic.cases())
}

/// The suite for one kind of transport.
pub struct Suite {
    networks: Networks,
    only: String,
    limits: Limits,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("only", &self.only).finish_non_exhaustive()
    }
}

impl Suite {
    /// A suite whose cases each call `network` for a fresh network of a cluster. What that gives makes the transport of a
    /// node: again each time the node starts, after the one before was stopped or dropped. Both are called within the
    /// case's runtime and may panic; that fails the case.
    pub fn new<T, N>(network: impl Fn(ClusterId) -> N + Send + Sync + 'static) -> Self
    where
        T: Transport,
        N: Fn(NodeId) -> T + Send + Sync + 'static,
    {
        let networks = move |cluster| -> Network {
            let transport = network(cluster);
            Box::new(move |node| Arc::new(transport(node)))
        };
        let limits = Limits {
            queue_bytes: QUEUE_BYTES,
            largest_entry_bytes: MAX_ENTRY_BYTES_LIMIT,
            patience: PATIENCE,
        };
        Self { networks: Arc::new(networks), only: String::new(), limits }
    }

    /// Runs only the cases whose name, as `topic/name`, contains `text`. Default: all.
    #[must_use]
    pub fn only(mut self, text: impl Into<String>) -> Self {
        self.only = text.into();
        self
    }

    /// The most bytes of entries that may wait for one peer, on all the way from `send` to the other end's inbox, and as
    /// much for a snapshot's stream; the cases send several times as many. Default: 64 MiB. With small queues the suite
    /// is quicker.
    #[must_use]
    pub const fn queue_bytes(mut self, bytes: usize) -> Self {
        self.limits.queue_bytes = bytes;
        self
    }

    /// The largest command in the cases, in bytes. A transport must take [`MAX_ENTRY_BYTES_LIMIT`], the default; one that is
    /// only used with a smaller [`Config::max_entry_bytes`](crate::Config::max_entry_bytes) may be tested with that.
    #[must_use]
    pub const fn largest_entry_bytes(mut self, bytes: usize) -> Self {
        self.limits.largest_entry_bytes = bytes;
        self
    }

    /// How long one step may take until the case fails. Default: 20 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.limits.patience = patience;
        self
    }

    /// Runs the cases, one after the other.
    pub fn run(&self) -> Report<Case> {
        let chosen = cases().filter(|case| case.to_string().contains(&self.only));
        let outcomes = chosen.map(|case| (case, self.run_case(case))).collect();
        Report::new("transport", Case::rule, outcomes)
    }

    /// On a thread of its own, so that it may be called from within a runtime, and a panic is caught.
    fn run_case(&self, case: &'static Case) -> Check {
        let (networks, limits, steps) = (Arc::clone(&self.networks), self.limits, Steps::default());
        let noted = steps.clone();
        let ran = std::thread::spawn(move || run(case, networks, limits, steps)).join();
        ran.unwrap_or_else(|panic| Err(noted.failure("no panic", panic_text(&*panic))))
    }
}

fn run(case: &'static Case, networks: Networks, limits: Limits, steps: Steps) -> Check {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| steps.failure("a tokio runtime", error.to_string()))?;
    let outcome = runtime.block_on(async {
        let bench = Bench::new(networks, limits, steps.clone());
        let whole = PATIENCE_PER_CASE * limits.patience;
        match tokio::time::timeout(whole, (case.run)(&bench)).await {
            Ok(outcome) => outcome.and_then(|()| bench.check()),
            Err(_) => Err(steps.failure("the case ends", format!("not within {whole:?}"))),
        }
    });
    runtime.shutdown_timeout(CLEARING);
    outcome
}
