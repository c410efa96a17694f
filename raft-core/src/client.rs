//! A client within the process: finds the leader among the nodes whose handles it has, and repeats what has to be repeated.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::codec::cold;
use crate::machine::Machine;
use crate::raft::Raft;
use crate::runtime::{RaftError, lock};
use crate::session::{Numbers, SessionError};
use crate::types::NodeId;

/// A client of a group. Cheap to clone; clones share the session and may be used by many tasks at once.
///
/// Every command is applied exactly once, however often it has to be sent: the client opens a session with its first command, and
/// a new one where that has expired. A call ends by its deadline, with the reply or with one of two errors: the command was
/// *refused*, and never is applied, or its outcome is *unknown*.
///
/// ```
/// # use raft_core::mem::{ChannelNetwork, MemLogStore};
/// # use raft_core::{Client, ClusterId, Machine, NodeOptions, Raft};
/// # #[derive(Default, serde::Serialize, serde::Deserialize)]
/// # struct Counter(u64);
/// # impl Machine for Counter {
/// #     type Command = u64;
/// #     type Reply = u64;
/// #     type Query = ();
/// #     type Answer = u64;
/// #     fn apply(&mut self, add: u64) -> u64 {
/// #         self.0 += add;
/// #         self.0
/// #     }
/// #     fn query(&self, _: ()) -> u64 {
/// #         self.0
/// #     }
/// # }
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let network = ChannelNetwork::new();
/// # let mut nodes = Vec::new();
/// # for id in 1..=3 {
/// #     let options = NodeOptions::new(ClusterId(7), id);
/// #     nodes.push(Raft::start(options, MemLogStore::new(), network.transport(id), Counter::default()).await?);
/// # }
/// # nodes[0].bootstrap([(1, "mem:1"), (2, "mem:2"), (3, "mem:3")]).await?;
/// let client = Client::new(nodes.clone());
/// assert_eq!(client.propose(&2).await?, 2);
/// nodes[0].shutdown().await;
/// assert_eq!(client.propose(&3).await?, 5);
/// assert_eq!(client.read(&()).await?, 5);
/// # Ok(())
/// # }
/// ```
pub struct Client<M: Machine> {
    shared: Arc<Shared<M>>,
    options: ClientOptions,
}

/// How a client goes about its calls.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How long a call may take in all. Default: 10 s.
    pub timeout: Duration,
    /// How long one attempt may take before another node is asked: a leader may hang. Default: 2 s.
    pub attempt_timeout: Duration,
    /// How many commands may be under way at once; more wait for their turn. At most
    /// [`SessionLimits::max_answers`](crate::session::SessionLimits::max_answers). Default: 512.
    pub max_under_way: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), attempt_timeout: Duration::from_secs(2), max_under_way: 512 }
    }
}

struct Shared<M: Machine> {
    nodes: Vec<Raft<M>>,
    /// The place of the node to ask first.
    first: Mutex<usize>,
    session: Mutex<Option<Session>>,
    /// Held while a session is being opened.
    opening: tokio::sync::Mutex<()>,
    room: Semaphore,
}

type Session = Arc<Mutex<Numbers>>;

/// Why a call has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The command was not applied, and never will be; this is what the last attempt met with.
    #[error("refused: {0}")]
    Refused(RaftError),
    /// The command may have been applied, or may still be; this is what the last attempt met with.
    #[error("the outcome is not known: {0}")]
    Unknown(RaftError),
}

impl ClientError {
    /// Whether the command was not applied, and never will be.
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    fn of(error: RaftError, perhaps: bool) -> Self {
        if perhaps || !error.is_refused() { Self::Unknown(error) } else { Self::Refused(error) }
    }
}

impl<M: Machine> Clone for Client<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), options: self.options }
    }
}

impl<M: Machine> std::fmt::Debug for Client<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A number that is under way until this is dropped.
struct Turn {
    session: Session,
    number: u64,
}

impl Turn {
    fn begin(session: Session) -> Self {
        let number = lock(&session).begin();
        Self { session, number }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.session).end(self.number);
    }
}

impl<M: Machine> Client<M> {
    /// A client of the group that `nodes` are of: one is enough where it leads, and the others are of no use to it.
    pub fn new(nodes: impl IntoIterator<Item = Raft<M>>) -> Self {
        Self::with_options(nodes, ClientOptions::default())
    }

    /// The same with other options.
    pub fn with_options(nodes: impl IntoIterator<Item = Raft<M>>, options: ClientOptions) -> Self {
        let shared = Shared {
            nodes: nodes.into_iter().collect(),
            first: Mutex::new(0),
            session: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            room: Semaphore::new(options.max_under_way.clamp(1, Semaphore::MAX_PERMITS)),
        };
        Self { shared: Arc::new(shared), options }
    }

    /// Has a command applied, exactly once, and returns its reply. May be called many times at once; the commands are then applied in
    /// any order.
    ///
    /// # Errors
    /// See [`ClientError`]. Called again after [`ClientError::Unknown`], it is another command.
    pub async fn propose(&self, command: &M::Command) -> Result<M::Reply, ClientError> {
        let refused = |error| ClientError::Refused(RaftError::Encode(error));
        let command = Bytes::from(cold::encode(command).map_err(refused)?);
        let mut attempts = Attempts::new(&self.options);
        let room = timeout_at(attempts.deadline, self.shared.room.acquire()).await;
        let _room = room.map_err(|_| ClientError::Refused(RaftError::Overloaded))?;
        let mut turn = Turn::begin(self.session(&mut attempts).await?);
        let mut perhaps = false;
        loop {
            let node = self.first()?;
            let serial = lock(&turn.session).serial(turn.number);
            let asked = self.shared.nodes[node].raw().propose_in(serial, command.clone());
            let error = match timeout_at(attempts.until(), asked).await {
                Ok(Ok(reply)) => {
                    return cold::decode(&reply).map_err(|e| ClientError::Unknown(RaftError::Decode(e)));
                }
                Ok(Err(error)) => error,
                Err(_) => RaftError::Unknown,
            };
            perhaps |= error == RaftError::Unknown;
            if error == RaftError::Session(SessionError::Expired) {
                self.leave(&turn.session);
                if perhaps {
                    return Err(ClientError::Unknown(error));
                }
                // None of the attempts has reached the state: another session will do as well.
                turn = Turn::begin(self.session(&mut attempts).await?);
                continue;
            }
            if !self.goes_on(node, &error) {
                return Err(ClientError::of(error, perhaps));
            }
            attempts.pause(&error).await.map_err(|error| ClientError::of(error, perhaps))?;
        }
    }

    /// Asks the state machine, linearizably.
    ///
    /// # Errors
    /// [`ClientError::Refused`]; never unknown.
    pub async fn read(&self, query: &M::Query) -> Result<M::Answer, ClientError> {
        let mut attempts = Attempts::new(&self.options);
        loop {
            let node = self.first()?;
            let error = match timeout_at(attempts.until(), self.shared.nodes[node].read(query)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => RaftError::Unknown,
            };
            if !self.goes_on(node, &error) {
                return Err(ClientError::Refused(error));
            }
            attempts.pause(&error).await.map_err(ClientError::Refused)?;
        }
    }

    /// Ends the session, so that the nodes need not keep it until it expires. The next command opens another.
    ///
    /// # Errors
    /// [`ClientError`]; it is no longer this client's session all the same.
    pub async fn close(&self) -> Result<(), ClientError> {
        let Some(session) = lock(&self.shared.session).take() else { return Ok(()) };
        let id = lock(&session).session();
        let mut attempts = Attempts::new(&self.options);
        loop {
            let node = self.first()?;
            let asked = self.shared.nodes[node].close_session(id);
            let error = match timeout_at(attempts.until(), asked).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => RaftError::Unknown,
            };
            if !self.goes_on(node, &error) {
                return Err(ClientError::of(error, false));
            }
            attempts.pause(&error).await.map_err(|error| ClientError::of(error, false))?;
        }
    }

    /// The session that is open; opens one where there is none. Who opens one holds up the others meanwhile.
    async fn session(&self, attempts: &mut Attempts) -> Result<Session, ClientError> {
        let opening = timeout_at(attempts.deadline, self.shared.opening.lock()).await;
        let _opening = opening.map_err(|_| ClientError::Refused(RaftError::Overloaded))?;
        if let Some(session) = &*lock(&self.shared.session) {
            return Ok(Arc::clone(session));
        }
        loop {
            let node = self.first()?;
            let error = match timeout_at(attempts.until(), self.shared.nodes[node].open_session()).await {
                Ok(Ok(id)) => {
                    let session = Arc::new(Mutex::new(Numbers::new(id)));
                    *lock(&self.shared.session) = Some(Arc::clone(&session));
                    return Ok(session);
                }
                Ok(Err(error)) => error,
                Err(_) => RaftError::Unknown,
            };
            // The command itself was not sent: whatever became of the opening.
            if !self.goes_on(node, &error) {
                return Err(ClientError::Refused(error));
            }
            attempts.pause(&error).await.map_err(ClientError::Refused)?;
        }
    }

    /// The session is of no use any more.
    fn leave(&self, old: &Session) {
        let mut session = lock(&self.shared.session);
        if session.as_ref().is_some_and(|session| Arc::ptr_eq(session, old)) {
            *session = None;
        }
    }

    fn first(&self) -> Result<usize, ClientError> {
        if self.shared.nodes.is_empty() {
            return Err(ClientError::Refused(RaftError::Stopped));
        }
        Ok(*lock(&self.shared.first) % self.shared.nodes.len())
    }

    /// Whether it is of use to ask again, and whom.
    fn goes_on(&self, asked: usize, error: &RaftError) -> bool {
        let place = |id: NodeId| self.shared.nodes.iter().position(|node| node.local().peer.node == id);
        let next = match error {
            RaftError::NotLeader { leader, .. } => {
                leader.and_then(place).filter(|&place| place != asked).unwrap_or(asked + 1)
            }
            RaftError::Transferring { to } => place(*to).unwrap_or(asked + 1),
            RaftError::Unknown | RaftError::Stopped | RaftError::Fatal { .. } => asked + 1,
            RaftError::NotCommitted
            | RaftError::Overloaded
            | RaftError::Session(SessionError::Full | SessionError::TooMany | SessionError::NotYet) => asked,
            _ => return false,
        };
        let mut first = lock(&self.shared.first);
        // Another call may know better by now.
        if *first == asked {
            *first = next % self.shared.nodes.len().max(1);
        }
        true
    }
}

/// The time of one call: pauses that double from 5 ms to 320 ms, each drawn from half of itself up to itself, so that many calls do
/// not come at once.
struct Attempts {
    deadline: Instant,
    attempt_timeout: Duration,
    tries: u32,
}

impl Attempts {
    fn new(options: &ClientOptions) -> Self {
        let deadline = Instant::now() + options.timeout;
        Self { deadline, attempt_timeout: options.attempt_timeout, tries: 0 }
    }

    /// Until when the next attempt may last.
    fn until(&self) -> Instant {
        self.deadline.min(Instant::now() + self.attempt_timeout)
    }

    /// Waits before the next attempt; the error where there is no time for it.
    async fn pause(&mut self, error: &RaftError) -> Result<(), RaftError> {
        let named = matches!(error, RaftError::NotLeader { leader: Some(_), .. });
        let longest = 5_u64 << self.tries.min(6);
        self.tries += 1;
        // Who was named is asked at once, the first time.
        let pause = if named && self.tries == 1 { 0 } else { fastrand::u64(longest / 2..=longest) };
        let until = Instant::now() + Duration::from_millis(pause);
        if until >= self.deadline {
            return Err(error.clone());
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }
}
