//! The client of the HTTP interface: finds the leader from any node, repeats what may be repeated, and tells *refused*
//! from *unknown*.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use raft_core::Consistency;
use raft_core::codec::entry;
use raft_core::session::{Numbers, Serial};
use raft_core::types::{Entry, Index};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::api::{
    CREATE_REVISION_HEADER, ChangeBody, ChangedBody, DeletedBody, ErrorBody, ErrorCode, InitBody,
    LEADER_HEADER, LeaseBody, MAX_TIMEOUT_MS, MODIFY_REVISION_HEADER, MembersBody, NUMBER_HEADER, PageBody,
    ReadOptions, SEEN_BELOW_HEADER, SESSION_HEADER, SessionBody, StatusBody, TIMEOUT_HEADER, TransferBody,
    TransferredBody, VERSION_HEADER, host_and_port, percent_encode,
};
use crate::command::{Expected, LimitError, Pair, Range, Revisions, check_key, check_value};

/// The largest response that is read: a full scan in JSON, with room for its escapes.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Beyond this, an attempt that may be repeated is given up: the node may hang.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// The longest wait for a connection. No request is begun with less time than that left: else its time could run out before
/// it is sent, and a change that nobody heard of would count as unknown.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A client of one cluster. Shared by reference among many tasks, it keeps one connection for each request under way.
///
/// **What is repeated.** Reads are. A change is repeated only where it was surely not carried out: no connection could be
/// made, or a node said so. Where the answer to a change is lost, the outcome is [`ClientError::Unknown`], unless the client
/// has a [session](Self::with_session), or is [`repeating`](Self::repeating).
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    nodes: Vec<String>,
    /// Where the leader was last seen.
    leader: Mutex<Option<String>>,
    /// Whom to ask next where no leader is known.
    next: AtomicUsize,
    timeout: Duration,
    /// [`CONNECT_TIMEOUT`], or less where the whole time is short.
    connect_timeout: Duration,
    repeating: bool,
    /// Changes belong to a session.
    with_session: bool,
    session: Mutex<Option<Session>>,
    /// Held while a session is being opened.
    opening: tokio::sync::Mutex<()>,
}

type Session = Arc<Mutex<Numbers>>;

/// A change's number in a session, under way until this is dropped.
#[derive(Debug)]
struct Turn {
    session: Session,
    number: u64,
}

impl Turn {
    fn begin(session: Session) -> Self {
        let number = lock(&session).begin();
        Self { session, number }
    }

    fn serial(&self) -> Serial {
        lock(&self.session).serial(self.number)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.session).end(self.number);
    }
}

/// What is behind the lock is whole: no code of ours panics while it holds one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a client has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request was surely not carried out, for this reason.
    #[error("{}", .0.message)]
    Refused(ErrorBody),
    /// The change may have been carried out, or may still be.
    #[error("{0}")]
    Unknown(String),
    /// What was asked for is wrong in itself; nothing was sent.
    #[error("{0}")]
    Input(String),
}

impl From<LimitError> for ClientError {
    fn from(error: LimitError) -> Self {
        Self::Input(error.to_string())
    }
}

impl ClientError {
    fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused(ErrorBody::new(code, message))
    }

    /// The kind of refusal, where it is one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(body) => Some(body.error),
            Self::Unknown(_) => Some(ErrorCode::Unknown),
            Self::Input(_) => Some(ErrorCode::Invalid),
        }
    }
}

/// A request, to be sent as often as needed.
struct Ask {
    method: Method,
    target: String,
    body: Bytes,
    /// Changes nothing, or may be done twice.
    repeatable: bool,
    /// It is known again by its number: it may be sent as often as need be.
    turn: Option<Turn>,
}

impl Ask {
    /// Whether an answer with this error tells how all attempts ended: a read has no outcome, and what the store says to a number is
    /// what it said to it the first time.
    fn settles(&self, error: ErrorCode) -> bool {
        let by_the_store = matches!(error, ErrorCode::Mismatch | ErrorCode::NotFound);
        self.method == Method::GET || (self.turn.is_some() && by_the_store)
    }
}

/// A response, read whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What came of one attempt without an answer.
enum Miss {
    /// Surely not carried out.
    NotDone(ErrorBody),
    /// Perhaps carried out.
    Perhaps(String),
}

impl Client {
    /// A client of the cluster that `nodes` (each `host:port` of a node's HTTP interface) belong to.
    ///
    /// # Errors
    /// Where there is no node or an address is none.
    pub fn new(nodes: &[String]) -> Result<Self, ClientError> {
        if nodes.is_empty() {
            return Err(ClientError::Input("give the address of at least one node".into()));
        }
        for node in nodes {
            host_and_port(node).map_err(ClientError::Input)?;
        }
        Ok(Self {
            http: http(CONNECT_TIMEOUT).map_err(|e| ClientError::Input(format!("no HTTP client: {e}")))?,
            nodes: nodes.to_vec(),
            leader: Mutex::default(),
            next: AtomicUsize::default(),
            timeout: Duration::from_secs(10),
            connect_timeout: CONNECT_TIMEOUT,
            repeating: false,
            with_session: false,
            session: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        })
    }

    /// How long a request may take in all, at most a minute. Default: 10 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.clamp(Duration::from_millis(1), Duration::from_millis(MAX_TIMEOUT_MS));
        let connect_timeout = CONNECT_TIMEOUT.min(self.timeout / 2);
        if connect_timeout != self.connect_timeout
            && let Ok(http) = http(connect_timeout)
        {
            (self.http, self.connect_timeout) = (http, connect_timeout);
        }
        self
    }

    /// Repeats puts and deletes of unknown outcome too, until one is confirmed. Each may then happen several times, so this
    /// is right only where nobody else changes the same keys and the number of changes does not matter. Conditional
    /// changes are never repeated.
    #[must_use]
    pub fn repeating(mut self) -> Self {
        self.repeating = true;
        self
    }

    /// Makes every change in a session: it is repeated until it is confirmed or the time is up, and happens exactly once, conditional
    /// changes too. A session is opened with the first change, and a new one where that has expired;
    /// [`close_session`](Self::close_session) ends it. Where a node runs a version before sessions, changes are refused.
    #[must_use]
    pub fn with_session(mut self) -> Self {
        self.with_session = true;
        self
    }

    /// Sets a key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&self, key: &str, value: Bytes) -> Result<Revisions, ClientError> {
        check_value(&value)?;
        let target = key_target(key)?;
        let ask = Ask { method: Method::PUT, target, body: value, repeatable: self.repeating, turn: None };
        parse(&self.change(ask).await?, true)
    }

    /// Sets a key if it is as expected.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::Mismatch`] where it is not.
    pub async fn compare_and_swap(
        &self,
        key: &str,
        expected: &Expected,
        value: Bytes,
    ) -> Result<Revisions, ClientError> {
        check_value(&value)?;
        let target = format!("{}?{}", key_target(key)?, condition(expected)?);
        let ask = Ask { method: Method::PUT, target, body: value, repeatable: false, turn: None };
        parse(&self.change(ask).await?, true)
    }

    /// Removes a key, if it is as expected where that is said. Gives the store's revision after it.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::NotFound`] where there is no such key.
    pub async fn delete(&self, key: &str, expected: Option<&Expected>) -> Result<u64, ClientError> {
        let mut target = key_target(key)?;
        if let Some(expected) = expected {
            target = format!("{target}?{}", condition(expected)?);
        }
        let repeatable = self.repeating && expected.is_none();
        let ask = Ask { method: Method::DELETE, target, body: Bytes::new(), repeatable, turn: None };
        parse::<DeletedBody>(&self.change(ask).await?, true).map(|body| body.revision)
    }

    /// Reads a key, linearizably: every change confirmed before is seen. With `stale`, from the state of whichever node is
    /// asked, which may lag.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown.
    pub async fn get(&self, key: &str, stale: bool) -> Result<Option<Pair>, ClientError> {
        self.get_with(key, level(stale)).await
    }

    /// Reads a key, as fresh as `consistency` says.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown.
    pub async fn get_with(&self, key: &str, consistency: Consistency) -> Result<Option<Pair>, ClientError> {
        let options = ReadOptions::query(consistency);
        let separator = if options.is_empty() { "" } else { "?" };
        let target = format!("{}{separator}{options}", key_target(key)?);
        match self.ask(read(target)).await {
            Ok(answer) => {
                let number = |name| {
                    answer.headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok())
                };
                let revisions = Revisions {
                    create_revision: number(CREATE_REVISION_HEADER).ok_or_else(strange)?,
                    modify_revision: number(MODIFY_REVISION_HEADER).ok_or_else(strange)?,
                    version: number(VERSION_HEADER).ok_or_else(strange)?,
                };
                Ok(Some(Pair { key: key.to_owned(), value: answer.body, revisions }))
            }
            Err(ClientError::Refused(body)) if body.error == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads keys in order, linearizably unless `stale`.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown.
    pub async fn scan(&self, range: &Range, stale: bool) -> Result<PageBody, ClientError> {
        self.scan_with(range, level(stale)).await
    }

    /// Reads keys in order, as fresh as `consistency` says.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown.
    pub async fn scan_with(&self, range: &Range, consistency: Consistency) -> Result<PageBody, ClientError> {
        let encode = |text: &str| percent_encode(text.as_bytes());
        let mut target = format!(
            "/kv?limit={}&from={}&prefix={}",
            range.limit,
            encode(&range.from),
            encode(&range.prefix)
        );
        if let Some(to) = &range.to {
            target = format!("{target}&to={}", encode(to));
        }
        let options = ReadOptions::query(consistency);
        if !options.is_empty() {
            target = format!("{target}&{options}");
        }
        parse(&self.ask(read(target)).await?, false)
    }

    /// Asks one node, of those given at [`Self::new`] the one at `place`, how it is.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown.
    pub async fn status(&self, place: usize) -> Result<StatusBody, ClientError> {
        let node = self.nodes.get(place).ok_or_else(|| ClientError::Input("there is no such node".into()))?;
        let ask = read("/status".to_owned());
        match self.attempt(&ask, node, self.timeout.min(ATTEMPT_TIMEOUT)).await {
            Ok(answer) => parse(&answer, false),
            Err(Miss::NotDone(error)) => Err(ClientError::Refused(error)),
            Err(Miss::Perhaps(message)) => Err(ClientError::refused(ErrorCode::Unavailable, message)),
        }
    }

    /// Reads committed entries of the log of the first of the nodes, from `from` up to `to`: at least one, and as many more as fit
    /// into one answer. Each was checked against its checksum.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown. [`ErrorCode::NotFound`] where the node does not hold entry `from`, or not as
    /// committed.
    pub async fn log_entries(&self, from: Index, to: Index) -> Result<Vec<Entry>, ClientError> {
        let ask = read(format!("/log/entries?from={from}&to={to}"));
        let Some(node) = self.nodes.first() else { return Err(strange()) };
        let mut answer = match self.attempt(&ask, node, self.timeout).await {
            Ok(answer) if answer.status.is_success() => answer,
            Ok(answer) => return Err(error_of(&answer, true)),
            Err(Miss::NotDone(error)) => return Err(ClientError::Refused(error)),
            Err(Miss::Perhaps(message)) => {
                return Err(ClientError::refused(ErrorCode::Unavailable, message));
            }
        };
        let mut entries = Vec::new();
        while !answer.body.is_empty() {
            entries.push(entry::decode(&mut answer.body).map_err(|_| strange())?);
        }
        if entries.is_empty() { Err(strange()) } else { Ok(entries) }
    }

    /// Has the first of the nodes found a cluster. Safe to repeat with the same members.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::Conflict`] where the node belongs to another cluster already.
    pub async fn init(&self, body: &InitBody) -> Result<InitBody, ClientError> {
        let encoded = serde_json::to_vec(body).map_err(|e| ClientError::Input(e.to_string()))?;
        let ask = Ask {
            method: Method::POST,
            target: "/init".to_owned(),
            body: Bytes::from(encoded),
            repeatable: false,
            turn: None,
        };
        let Some(node) = self.nodes.first() else { return Err(strange()) };
        match self.attempt(&ask, node, self.timeout).await {
            Ok(answer) => parse(&answer, true),
            Err(Miss::NotDone(error)) => Err(ClientError::Refused(error)),
            Err(Miss::Perhaps(message)) => Err(ClientError::Unknown(message)),
        }
    }

    /// Hands leadership to a node, or to the best where none is named; gives the node that leads then.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::Conflict`] where the node cannot lead, or did not take over in time.
    pub async fn transfer(&self, to: Option<u64>) -> Result<u64, ClientError> {
        let body = serde_json::to_vec(&TransferBody { to }).map_err(|e| ClientError::Input(e.to_string()))?;
        let ask = Ask {
            method: Method::POST,
            target: "/transfer".to_owned(),
            body: Bytes::from(body),
            // Where the node leads already, nothing happens.
            repeatable: to.is_some(),
            turn: None,
        };
        parse::<TransferredBody>(&self.ask(ask).await?, true).map(|body| body.leader)
    }

    /// Switches lease reads on, on what they rest on from then on, or off.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::Conflict`] where the numbers are out of range, or a member does not answer or does not know leases.
    pub async fn set_lease(&self, lease: Option<LeaseBody>) -> Result<ChangedBody, ClientError> {
        let body = match lease {
            Some(lease) => serde_json::to_vec(&lease).map_err(|e| ClientError::Input(e.to_string()))?,
            None => Vec::new(),
        };
        let method = if lease.is_some() { Method::PUT } else { Method::DELETE };
        // Asked for twice, it is as it was.
        let (target, body) = ("/lease".to_owned(), Bytes::from(body));
        let ask = Ask { method, target, body, repeatable: true, turn: None };
        parse(&self.ask(ask).await?, true)
    }

    /// The members, and where a change of them stands, as the leader sees it; with `stale`, as whichever node is asked knows it,
    /// which may be old.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown.
    pub async fn members(&self, stale: bool) -> Result<MembersBody, ClientError> {
        let target = if stale { "/members?stale=true" } else { "/members" };
        parse(&self.ask(read(target.to_owned())).await?, false)
    }

    /// Makes changes of the members the cluster's intent, and returns once that is committed. They are carried out from then on by
    /// whoever leads; [`Self::members`] shows how far that is.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::Conflict`] and [`ErrorCode::NotFound`] where the changes do not fit the members.
    pub async fn change_members(&self, body: &ChangeBody) -> Result<ChangedBody, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Input(e.to_string()))?;
        let target = "/members".to_owned();
        let ask =
            Ask { method: Method::POST, target, body: Bytes::from(body), repeatable: false, turn: None };
        parse(&self.ask(ask).await?, true)
    }

    /// Gives up the change of the members that is under way: who came in only for its sake goes again, what has begun to take
    /// effect is finished.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ErrorCode::Conflict`] where there is none.
    pub async fn give_up_change(&self) -> Result<ChangedBody, ClientError> {
        let target = "/members/cancel".to_owned();
        let ask = Ask { method: Method::POST, target, body: Bytes::new(), repeatable: false, turn: None };
        parse(&self.ask(ask).await?, true)
    }

    /// Has a snapshot taken of all that was confirmed so far, or, `stale`, of what the first of the nodes has, and begins to fetch
    /// its file.
    ///
    /// # Errors
    /// See [`ClientError`]; never unknown.
    pub async fn backup(&self, stale: bool) -> Result<Backup, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut backoff = Backoff::default();
        loop {
            let node = if stale { self.nodes[0].clone() } else { self.choose() };
            let target = if stale { "/backup?stale=true" } else { "/backup" };
            let asked = async {
                let response = self.http.get(format!("http://{node}{target}")).send().await?;
                self.learn_leader(response.headers());
                if response.status().is_success() {
                    return Ok(Ok(response));
                }
                let (status, headers) = (response.status(), HeaderMap::new());
                let body = read_body(response).await?;
                Ok(Err(error_of(&Answer { status, headers, body }, true)))
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let refused = match tokio::time::timeout(left, asked).await {
                Ok(Ok(Ok(response))) => {
                    let left = response.content_length().ok_or_else(strange)?;
                    return Ok(Backup { response, left });
                }
                Ok(Ok(Err(refused))) => refused,
                Ok(Err(error)) => {
                    let error: reqwest::Error = error;
                    let message = format!("cannot reach the node at {node}: {}", cause(&error));
                    ClientError::refused(ErrorCode::Unavailable, message)
                }
                Err(_) => {
                    let message = format!("the node at {node} did not take a snapshot in time");
                    return Err(ClientError::refused(ErrorCode::Unavailable, message));
                }
            };
            let again = matches!(refused.code(), Some(ErrorCode::Unavailable | ErrorCode::Overloaded));
            // Unless it has just named another one.
            self.forget(&node);
            let pause = backoff.next();
            if !again || stale || Instant::now() + pause >= deadline {
                return Err(refused);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes a change, in the session if there is to be one.
    async fn change(&self, mut ask: Ask) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + self.timeout;
        if !self.with_session {
            return self.ask_until(&ask, deadline).await;
        }
        ask.repeatable = true;
        loop {
            ask.turn = Some(Turn::begin(self.session_until(deadline).await?));
            let answer = self.ask_until(&ask, deadline).await;
            match (&answer, &ask.turn) {
                (Err(ClientError::Refused(body)), Some(turn)) if body.error == ErrorCode::SessionExpired => {
                    self.leave(&turn.session);
                }
                _ => return answer,
            }
        }
    }

    /// The session that is open; opens one where there is none. Who opens one holds up the others meanwhile.
    async fn session_until(&self, deadline: Instant) -> Result<Session, ClientError> {
        let opening = tokio::time::timeout_at(deadline.into(), self.opening.lock()).await;
        let _opening = opening.map_err(|_| {
            let message = "no session was opened in time: the change was not sent";
            ClientError::refused(ErrorCode::Unavailable, message)
        })?;
        if let Some(session) = &*lock(&self.session) {
            return Ok(Arc::clone(session));
        }
        // One that nobody hears of expires.
        let open = Ask {
            method: Method::POST,
            target: "/sessions".to_owned(),
            body: Bytes::new(),
            repeatable: true,
            turn: None,
        };
        let opened = self.ask_until(&open, deadline).await;
        match opened.and_then(|answer| parse::<SessionBody>(&answer, false)) {
            Ok(body) => {
                let session =
                    Arc::new(Mutex::new(Numbers::new(body.session.parse().map_err(|_| strange())?)));
                *lock(&self.session) = Some(Arc::clone(&session));
                Ok(session)
            }
            // The change itself was not sent.
            Err(ClientError::Unknown(message)) => Err(ClientError::refused(ErrorCode::Unavailable, message)),
            Err(error) => Err(error),
        }
    }

    /// Ends the session, so that the nodes need not keep it until it expires.
    ///
    /// # Errors
    /// See [`ClientError`]; it is no longer this client's session all the same.
    pub async fn close_session(&self) -> Result<(), ClientError> {
        let Some(session) = lock(&self.session).take() else { return Ok(()) };
        let target = format!("/sessions/{}", lock(&session).session());
        let close = Ask { method: Method::DELETE, target, body: Bytes::new(), repeatable: true, turn: None };
        parse::<SessionBody>(&self.ask(close).await?, true).map(drop)
    }

    /// The session is of no use any more.
    fn leave(&self, old: &Session) {
        let mut session = lock(&self.session);
        if session.as_ref().is_some_and(|session| Arc::ptr_eq(session, old)) {
            *session = None;
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, ClientError> {
        self.ask_until(&ask, Instant::now() + self.timeout).await
    }

    /// Asks one node after the other until one answers or the time is up.
    async fn ask_until(&self, ask: &Ask, deadline: Instant) -> Result<Answer, ClientError> {
        let mut backoff = Backoff::default();
        // Whether an earlier attempt may have been carried out: then no later refusal makes it undone.
        let mut perhaps = None;
        let mut blank = BTreeSet::new();
        loop {
            let node = self.choose();
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = if ask.repeatable { left.min(ATTEMPT_TIMEOUT) } else { left };
            let refused = match self.attempt(ask, &node, limit).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => {
                    let error = error_of(&answer, ask.method == Method::GET);
                    let again = match &error {
                        // Another node may belong to the cluster already.
                        ClientError::Refused(body) if body.error == ErrorCode::NotInitialized => {
                            blank.insert(node.clone());
                            self.nodes.iter().any(|node| !blank.contains(node))
                        }
                        ClientError::Refused(body) => {
                            matches!(
                                body.error,
                                ErrorCode::Unavailable
                                    | ErrorCode::Overloaded
                                    | ErrorCode::NoSessions
                                    | ErrorCode::Failed
                            )
                        }
                        ClientError::Unknown(message) => {
                            perhaps = Some(message.clone());
                            ask.repeatable
                        }
                        ClientError::Input(_) => false,
                    };
                    if !again {
                        return Err(match (error, perhaps) {
                            // An earlier attempt may have been carried out: no refusal of a later one undoes it.
                            (ClientError::Refused(body), Some(message)) if !ask.settles(body.error) => {
                                ClientError::Unknown(message)
                            }
                            (error, _) => error,
                        });
                    }
                    error
                }
                Err(Miss::NotDone(error)) => ClientError::Refused(error),
                Err(Miss::Perhaps(message)) => {
                    perhaps = Some(message.clone());
                    if !ask.repeatable {
                        return Err(ClientError::Unknown(message));
                    }
                    ClientError::Unknown(message)
                }
            };
            self.forget(&node);
            let pause = backoff.next();
            if Instant::now() + pause + self.connect_timeout >= deadline {
                return Err(match (perhaps, ask.method == Method::GET) {
                    (Some(message), false) => ClientError::Unknown(message),
                    (Some(message), true) => ClientError::refused(ErrorCode::Unavailable, message),
                    (None, _) => refused,
                });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, ask: &Ask, node: &str, limit: Duration) -> Result<Answer, Miss> {
        // The node gives up a little earlier, so that its word comes before the client's guess.
        let node_limit = limit.mul_f32(0.9).as_millis().max(1) as u64;
        let request = self
            .http
            .request(ask.method.clone(), format!("http://{node}{}", ask.target))
            .header(TIMEOUT_HEADER, node_limit)
            .timeout(limit)
            .body(ask.body.clone());
        let request = match &ask.turn {
            Some(turn) => with_serial(request, turn.serial()),
            None => request,
        };
        let miss = |error: reqwest::Error| {
            if error.is_connect() || error.is_builder() {
                let message = format!("cannot reach the node at {node}: {}", cause(&error));
                Miss::NotDone(ErrorBody::new(ErrorCode::Unavailable, message))
            } else {
                Miss::Perhaps(format!("the node at {node} did not answer: {}", cause(&error)))
            }
        };
        let mut response = request.send().await.map_err(miss)?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        self.learn_leader(&headers);
        let body = read_body(response).await.map_err(miss)?;
        Ok(Answer { status, headers, body })
    }

    fn learn_leader(&self, headers: &HeaderMap) {
        if let Some(leader) = headers.get(LEADER_HEADER).and_then(|leader| leader.to_str().ok())
            && host_and_port(leader).is_ok()
        {
            self.remember(leader);
        }
    }

    /// The leader where it is known, else one node after the other.
    fn choose(&self) -> String {
        if let Ok(leader) = self.leader.lock()
            && let Some(leader) = leader.as_ref()
        {
            return leader.clone();
        }
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
        self.nodes[place].clone()
    }

    fn remember(&self, node: &str) {
        if let Ok(mut leader) = self.leader.lock()
            && leader.as_deref() != Some(node)
        {
            *leader = Some(node.to_owned());
        }
    }

    /// The node did not serve: it is not taken for the leader any more.
    fn forget(&self, node: &str) {
        if let Ok(mut leader) = self.leader.lock()
            && leader.as_deref() == Some(node)
        {
            *leader = None;
        }
    }
}

/// A backup on its way: the bytes of a snapshot's file. Whether they are whole and right, whoever has them all must check:
/// `raft_core::runtime::SnapshotFile::open` does.
#[derive(Debug)]
pub struct Backup {
    response: Response,
    left: u64,
}

/// How long a backup may stand still.
const BACKUP_STALL: Duration = Duration::from_secs(60);

impl Backup {
    /// How many bytes are still to come.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Where the connection breaks or stands still; the backup is to be begun anew then.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let broken = |why: String| {
            ClientError::refused(ErrorCode::Unavailable, format!("the backup broke off: {why}; repeat it"))
        };
        let chunk = tokio::time::timeout(BACKUP_STALL, self.response.chunk())
            .await
            .map_err(|_| broken("it does not go on".to_owned()))?
            .map_err(|error| broken(cause(&error)))?;
        match &chunk {
            Some(bytes) => self.left = self.left.saturating_sub(bytes.len() as u64),
            None if self.left > 0 => return Err(broken(format!("{} bytes are missing", self.left))),
            None => {}
        }
        Ok(chunk)
    }
}

/// The HTTP client below the nodes and the client: no proxy, no redirects, nothing repeated by itself.
pub(crate) fn http(connect_timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(Duration::from_secs(20))
        .tcp_nodelay(true)
        .build()
}

/// Reads a response's body, up to [`MAX_BODY_BYTES`].
pub(crate) async fn read_body(mut response: Response) -> Result<Bytes, reqwest::Error> {
    let Some(first) = response.chunk().await? else { return Ok(Bytes::new()) };
    let Some(second) = response.chunk().await? else { return Ok(first) };
    let mut body = BytesMut::from(first);
    body.extend_from_slice(&second);
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            // What is cut off does not parse, and is reported as such.
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Waits that double from 10 ms to 320 ms, each drawn from half of itself up to itself so that many do not come at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let longest = 10_u64 << self.tries.min(5);
        self.tries = self.tries.saturating_add(1);
        Duration::from_millis(fastrand::u64(longest / 2..=longest))
    }
}

/// The request as one of a session.
pub(crate) fn with_serial(request: reqwest::RequestBuilder, serial: Serial) -> reqwest::RequestBuilder {
    request
        .header(SESSION_HEADER, serial.session.to_string())
        .header(NUMBER_HEADER, serial.number)
        .header(SEEN_BELOW_HEADER, serial.seen_below)
}

fn key_target(key: &str) -> Result<String, ClientError> {
    check_key(key)?;
    Ok(format!("/kv/{}", percent_encode(key.as_bytes())))
}

fn condition(expected: &Expected) -> Result<String, ClientError> {
    match expected {
        Expected::Revision(revision) => Ok(format!("if_revision={revision}")),
        Expected::Value(value) => {
            check_value(value)?;
            let text = std::str::from_utf8(value).map_err(|_| {
                ClientError::Input("an expected value must be UTF-8: expect a revision".into())
            })?;
            Ok(format!("if_value={}", percent_encode(text.as_bytes())))
        }
    }
}

fn read(target: String) -> Ask {
    Ask { method: Method::GET, target, body: Bytes::new(), repeatable: true, turn: None }
}

fn level(stale: bool) -> Consistency {
    if stale { Consistency::Stale { max_age: None } } else { Consistency::Linearizable }
}

fn strange() -> ClientError {
    ClientError::refused(ErrorCode::Failed, "the answer is not one of a raft-kv node: check the address")
}

fn parse<T: DeserializeOwned>(answer: &Answer, write: bool) -> Result<T, ClientError> {
    if !answer.status.is_success() {
        return Err(error_of(answer, !write));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|_| if write { ClientError::Unknown(strange().to_string()) } else { strange() })
}

/// The error that a node answered with. Whatever else answers in its place may have passed a change on.
fn error_of(answer: &Answer, read: bool) -> ClientError {
    match serde_json::from_slice::<ErrorBody>(&answer.body) {
        Ok(body) if body.error == ErrorCode::Unknown && !read => ClientError::Unknown(body.message),
        // A read changes nothing: there is nothing to be unknown.
        Ok(body) if body.error == ErrorCode::Unknown => {
            ClientError::refused(ErrorCode::Unavailable, body.message)
        }
        Ok(body) => ClientError::Refused(body),
        Err(_) if read => strange(),
        Err(_) => ClientError::Unknown(strange().to_string()),
    }
}

/// The innermost reason of an error: what the system said.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the time is up".to_owned();
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_session_waits_until_the_deadline_and_no_longer() {
        let client = Client::new(&["127.0.0.1:1".to_owned()]).map(Client::with_session).expect("an address");
        let _opening = client.opening.lock().await;
        let deadline = Instant::now() + Duration::from_millis(50);
        let waiting = tokio::time::timeout(Duration::from_secs(60), client.session_until(deadline));
        let refused = waiting.await.expect("it ends").map(drop).expect_err("nobody opens one");
        assert_eq!(refused.code(), Some(ErrorCode::Unavailable));
        assert!(Instant::now() >= deadline);
    }
}
