//! The HTTP server of a node: any node takes any request.

use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{ExtensionRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query as UrlQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use bytes::Bytes;
use raft_core::message::Dismissal;
use raft_core::runtime::TransferStatus;
use raft_core::session::{Serial, SessionId};
use raft_core::types::NodeId;
use raft_core::{Consistency, LogStore, Membership, Raft, RaftError, RaftStatus, Reading};
use raft_transport_quic::QuicTransport;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::consistency::{Level, ReadOptions};
use super::health::HealthBody;
use super::leader::{Call, Work};
use super::log::{self, CommittedLog};
use super::members::{ChangeBody, ChangedBody, MembersBody};
use super::membership::members_of;
use super::metrics::Look;
use super::room::{Deadline, RequestLimits, Room};
use super::{
    APPLIED_HEADER, CREATE_REVISION_HEADER, DEFAULT_SCAN_LIMIT, DeletedBody, EntryIdBody, ErrorBody,
    ErrorCode, FORWARDED_HEADER, InitBody, LEADER_HEADER, LeaseBody, MAX_TIMEOUT_MS, MODIFY_REVISION_HEADER,
    MemberBody, NUMBER_HEADER, PageBody, SEEN_BELOW_HEADER, SESSION_HEADER, SessionBody,
    SnapshotProgressBody, SnapshotsBody, StatusBody, TransferBody, TransferredBody, TransportBody,
    VERSION_HEADER, host_and_port,
};
use crate::client::{CONNECT_TIMEOUT, http};
use crate::command::{
    Answer, Command, Expected, MAX_SCAN_LIMIT, Query, Range, Reply, Revisions, Summary, check_key,
    check_value,
};
use crate::store::Store;

/// A node's HTTP interface.
#[derive(Debug)]
pub struct Api {
    raft: Raft<Store>,
    http: reqwest::Client,
    room: Room,
    log: Option<CommittedLog>,
    transport: Option<Weak<QuicTransport>>,
}

/// What a node knows of the leader.
pub(super) struct View {
    /// It is this node.
    pub(super) leads: bool,
    /// Where clients reach it.
    pub(super) leader: Option<String>,
    /// Whether this node belongs to a cluster.
    pub(super) founded: bool,
    /// Why the node does not count, if it is known not to.
    pub(super) outside: Option<&'static str>,
    /// Why this node takes no part any more.
    pub(super) failed: Option<Arc<str>>,
}

impl Api {
    /// The interface to `raft`.
    ///
    /// # Errors
    /// Where no HTTP client can be made to reach the other nodes with.
    pub fn new(raft: Raft<Store>) -> Result<Self, reqwest::Error> {
        let room = Room::new(RequestLimits::default());
        Ok(Self { raft, http: http(CONNECT_TIMEOUT)?, room, log: None, transport: None })
    }

    /// Other limits for the requests of clients.
    #[must_use]
    pub fn with_limits(mut self, limits: RequestLimits) -> Self {
        self.room = Room::new(limits);
        self
    }

    /// Gives out committed entries of the node's log too, which other members can be repaired from.
    #[must_use]
    pub fn with_log(mut self, store: Weak<dyn LogStore>) -> Self {
        self.log = Some(CommittedLog::new(store));
        self
    }

    /// Tells what the node exchanges with the others, too.
    #[must_use]
    pub fn with_transport(mut self, transport: Weak<QuicTransport>) -> Self {
        self.transport = Some(transport);
        self
    }

    fn transport(&self) -> Option<TransportBody> {
        let stats = self.transport.as_ref()?.upgrade()?.stats();
        Some(TransportBody {
            sent_bytes: stats.sent_bytes,
            received_bytes: stats.received_bytes,
            snapshot_sent_bytes: stats.snapshot_sent_bytes,
            snapshot_received_bytes: stats.snapshot_received_bytes,
            dropped: stats.dropped,
        })
    }

    pub(super) fn log(&self) -> Option<&CommittedLog> {
        self.log.as_ref()
    }

    pub(super) fn raft(&self) -> &Raft<Store> {
        &self.raft
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(super) fn view(&self) -> View {
        let status = self.raft.status();
        let status = status.borrow();
        let leader = status.leader.and_then(|leader| status.membership.nodes.get(&leader));
        let local = self.raft.local().peer.node;
        let outside = match status.dismissed {
            Some(Dismissal::Removed) => Some("this node was removed from the cluster"),
            Some(_) => Some("this node is suspended"),
            None => None,
        };
        View {
            leads: status.leader == Some(local),
            outside,
            leader: leader.map(|info| info.client_address.clone()).filter(|address| !address.is_empty()),
            founded: !status.membership.is_empty(),
            failed: status.fatal.clone(),
        }
    }

    /// What holds the node or its cluster up; nothing where it has ended, which its status tells.
    async fn findings(&self) -> Vec<String> {
        let findings = self.raft.explain().await.unwrap_or_default();
        findings.iter().map(ToString::to_string).collect()
    }

    async fn summary(&self) -> Result<Summary, RaftError> {
        match self.raft.query_local(&Query::Summary).await? {
            Answer::Summary(summary) => Ok(summary),
            // The store answers a question with its own kind of answer.
            Answer::Got(_) | Answer::Scanned(_) => Ok(Summary::default()),
        }
    }
}

/// The routes of a node.
pub fn router(api: Arc<Api>) -> Router {
    // Whoever looks whether the node is well must hear so, most of all when clients overrun it.
    let probes = Router::new().route("/livez", get(live)).route("/readyz", get(ready));
    let looks = Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), look));
    let requests = Router::new()
        .route("/kv", get(scan))
        .route("/kv/{*key}", get(read).put(write).delete(delete))
        .route("/log/entries", get(log::entries))
        .route("/init", post(init))
        .route("/transfer", post(transfer))
        .route("/lease", put(set_lease).delete(end_lease))
        .route("/members", get(list_members).post(change_members))
        .route("/members/cancel", post(give_up_change))
        .route("/backup", get(super::backup::backup))
        .route("/sessions", post(open_session))
        .route("/sessions/{session}", axum::routing::delete(close_session))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), admit));
    probes
        .merge(looks)
        .merge(requests)
        .fallback(|| async {
            refuse(
                ErrorCode::NotFound,
                "no such path: see /kv/{key}, /kv, /status, /members, /metrics, /health, /livez, /readyz, /log/entries, /init, \
                  /transfer, /lease, /backup, /sessions",
            )
        })
        .method_not_allowed_fallback(|| async {
            let mut response = refuse(ErrorCode::Invalid, "the path does not know this method");
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&api), name_leader))
        .with_state(api)
}

/// Around every request: tells the caller where the leader is, so that the next may go there at once.
async fn name_leader(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(leader) = api.view().leader.and_then(|leader| HeaderValue::from_str(&leader).ok()) {
        response.headers_mut().entry(LEADER_HEADER).or_insert(leader);
    }
    response
}

/// Around the requests of clients: keeps their number and their bytes bounded.
async fn admit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match api.room.admit(request).await {
        Ok((request, place)) => place.keep(next.run(request).await).unwrap_or_else(|error| respond(&error)),
        Err(error) => respond(&error),
    }
}

/// Around the questions about the node itself.
async fn look(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match api.room.look() {
        Ok(_place) => next.run(request).await,
        Err(error) => respond(&error),
    }
}

/// What may stand behind the `?` of a key.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOptions {
    if_revision: Option<u64>,
    if_value: Option<String>,
    #[serde(default)]
    stale: bool,
    consistency: Option<Level>,
    max_age_ms: Option<u64>,
}

impl KeyOptions {
    fn reading(&self) -> ReadOptions {
        ReadOptions { level: self.consistency, stale: self.stale, max_age_ms: self.max_age_ms }
    }

    fn expected(self) -> Result<Option<Expected>, ErrorBody> {
        match (self.if_revision, self.if_value) {
            (Some(_), Some(_)) => {
                Err(ErrorBody::new(ErrorCode::Invalid, "give if_revision or if_value, not both"))
            }
            (Some(revision), None) => Ok(Some(Expected::Revision(revision))),
            (None, Some(value)) => {
                check_value(value.as_bytes())
                    .map_err(|limit| ErrorBody::new(ErrorCode::TooLarge, limit.to_string()))?;
                Ok(Some(Expected::Value(Bytes::from(value))))
            }
            (None, None) => Ok(None),
        }
    }
}

/// What may stand behind the `?` of the members.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembersOptions {
    #[serde(default)]
    stale: bool,
}

/// What may stand behind the `?` of a scan.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScanOptions {
    #[serde(default)]
    from: String,
    to: Option<String>,
    #[serde(default)]
    prefix: String,
    limit: Option<usize>,
    #[serde(default)]
    stale: bool,
    consistency: Option<Level>,
    max_age_ms: Option<u64>,
}

/// The parts of a request that every handler on keys needs.
struct Asked {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    deadline: Instant,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ExtensionRejection> {
        let Extension(Deadline(deadline)) = Extension::from_request_parts(parts, state).await?;
        let (method, uri, headers) = (parts.method.clone(), parts.uri.clone(), parts.headers.clone());
        Ok(Self { method, uri, headers, deadline })
    }
}

impl Asked {
    fn call(self, work: Work, body: Bytes) -> Call {
        Call {
            work,
            method: self.method,
            target: self.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            body,
            deadline: self.deadline,
            forwarded: self.headers.contains_key(FORWARDED_HEADER),
        }
    }

    /// The session that a change belongs to, and its number there.
    fn serial(&self) -> Result<Option<Serial>, ErrorBody> {
        fn header<T: FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, ErrorBody> {
            let Some(value) = headers.get(name) else { return Ok(None) };
            let value = value.to_str().ok().and_then(|value| value.parse().ok());
            let wrong = || ErrorBody::new(ErrorCode::Invalid, format!("{name} is not as it should be"));
            value.map(Some).ok_or_else(wrong)
        }
        let session = header(&self.headers, SESSION_HEADER)?;
        let number = header(&self.headers, NUMBER_HEADER)?;
        let seen_below = header(&self.headers, SEEN_BELOW_HEADER)?.unwrap_or(0);
        match (session, number) {
            (Some(session), Some(number)) => Ok(Some(Serial { session, number, seen_below })),
            (None, None) => Ok(None),
            _ => {
                let rule = format!("{SESSION_HEADER} and {NUMBER_HEADER} go together");
                Err(ErrorBody::new(ErrorCode::Invalid, rule))
            }
        }
    }
}

type KeyPath = Result<Path<String>, PathRejection>;
pub(super) type Options<T> = Result<UrlQuery<T>, QueryRejection>;

fn key_of(path: KeyPath) -> Result<String, ErrorBody> {
    let Path(key) = path.map_err(|e| ErrorBody::new(ErrorCode::Invalid, e.body_text()))?;
    check_key(&key).map_err(|limit| ErrorBody::new(ErrorCode::Invalid, limit.to_string()))?;
    Ok(key)
}

pub(super) fn options_of<T>(options: Options<T>) -> Result<T, ErrorBody> {
    options.map(|UrlQuery(options)| options).map_err(|e| ErrorBody::new(ErrorCode::Invalid, e.body_text()))
}

fn only_for_reads(options: ReadOptions) -> Result<(), ErrorBody> {
    if options.is_empty() {
        return Ok(());
    }
    Err(ErrorBody::new(ErrorCode::Invalid, "stale, consistency and max_age_ms are for reads only"))
}

async fn read(
    State(api): State<Arc<Api>>,
    path: KeyPath,
    options: Options<KeyOptions>,
    asked: Asked,
) -> Response {
    let parsed = key_of(path).and_then(|key| {
        let options = options_of(options)?;
        if options.if_revision.is_some() || options.if_value.is_some() {
            return Err(ErrorBody::new(ErrorCode::Invalid, "if_revision and if_value are for changes only"));
        }
        Ok((Query::Get { key }, options.reading().consistency()?))
    });
    answer(&api, asked, parsed).await
}

async fn scan(State(api): State<Arc<Api>>, options: Options<ScanOptions>, asked: Asked) -> Response {
    let parsed = options_of(options).and_then(|options| {
        let ScanOptions { from, to, prefix, limit, stale, consistency, max_age_ms } = options;
        let reading = ReadOptions { level: consistency, stale, max_age_ms }.consistency()?;
        let limit = limit.unwrap_or(DEFAULT_SCAN_LIMIT);
        if !(1..=MAX_SCAN_LIMIT).contains(&limit) {
            let rule = format!("limit must be from 1 to {MAX_SCAN_LIMIT}");
            return Err(ErrorBody::new(ErrorCode::Invalid, rule));
        }
        Ok((Query::Scan(Range { from, to, prefix, limit }), reading))
    });
    answer(&api, asked, parsed).await
}

async fn answer(api: &Api, asked: Asked, parsed: Result<(Query, Consistency), ErrorBody>) -> Response {
    match parsed {
        // Of the node's own state whatever it is: without a leader too.
        Ok((query, own @ Consistency::Stale { max_age: None })) => {
            match api.raft.read_with(&query, own).await {
                Ok(reading) => respond_read(&reading),
                Err(error) => refuse(ErrorCode::Failed, error.to_string()),
            }
        }
        Ok((query, consistency)) => {
            api.carry_out(asked.call(Work::Read(query, consistency), Bytes::new())).await
        }
        Err(error) => respond(&error),
    }
}

async fn write(
    State(api): State<Arc<Api>>,
    path: KeyPath,
    options: Options<KeyOptions>,
    asked: Asked,
    body: Bytes,
) -> Response {
    let call = key_of(path).and_then(|key| {
        let options = options_of(options)?;
        only_for_reads(options.reading())?;
        let command = match options.expected()? {
            Some(expected) => Command::CompareAndSwap { key, expected, value: body.clone() },
            None => Command::Put { key, value: body.clone() },
        };
        let serial = asked.serial()?;
        Ok(asked.call(Work::Write(command, serial), body))
    });
    carried_out(&api, call).await
}

async fn delete(
    State(api): State<Arc<Api>>,
    path: KeyPath,
    options: Options<KeyOptions>,
    asked: Asked,
) -> Response {
    let call = key_of(path).and_then(|key| {
        let options = options_of(options)?;
        only_for_reads(options.reading())?;
        let expected = options.expected()?;
        let serial = asked.serial()?;
        Ok(asked.call(Work::Write(Command::Delete { key, expected }, serial), Bytes::new()))
    });
    carried_out(&api, call).await
}

/// Carries a call out, if the request makes one.
async fn carried_out(api: &Api, call: Result<Call, ErrorBody>) -> Response {
    match call {
        Ok(call) => api.carry_out(call).await,
        Err(error) => respond(&error),
    }
}

/// What the JSON of a body says.
fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ErrorBody> {
    serde_json::from_slice(body)
        .map_err(|e| ErrorBody::new(ErrorCode::Invalid, format!("the body is not as it should be: {e}")))
}

async fn status(State(api): State<Arc<Api>>) -> Response {
    let status = api.raft.status().borrow().clone();
    let local = api.raft.local();
    // A node that has failed still tells why.
    let summary = api.summary().await.unwrap_or_default();
    let body = StatusBody {
        node: local.peer.node.0,
        cluster: local.cluster.to_string(),
        role: status.role.as_str().to_owned(),
        term: status.term,
        vote: status.vote.map(|node| node.0),
        leader: status.leader.map(|node| node.0),
        commit: status.commit,
        applied: status.applied,
        durable: status.durable,
        last: EntryIdBody { term: status.last.term, index: status.last.index },
        members: members(&status.membership),
        keys: summary.keys,
        revision: summary.revision,
        state_hash: format!("{:032x}", summary.hash),
        priority: status.priority,
        transferring: status.transferring.map(|node| node.0),
        incarnation: local.peer.incarnation.to_string(),
        dismissed: status.dismissed.map(|dismissal| dismissal.as_str().to_owned()),
        changing: status.change.is_some(),
        lease: status.membership.lease.map(LeaseBody::from),
        lineage: status.lineage.to_string(),
        findings: api.findings().await,
        snapshots: snapshots(&status),
        transport: api.transport(),
        fatal: status.fatal.as_deref().map(str::to_owned),
        fatal_kind: status.fatal_kind.map(|kind| kind.as_str().to_owned()),
    };
    json(StatusCode::OK, &body)
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let summary = api.summary().await.unwrap_or_default();
    let status = api.raft.status().borrow().clone();
    Look { status, metrics: api.raft.metrics(), summary, transport: api.transport() }.response()
}

async fn live(State(api): State<Arc<Api>>) -> Response {
    HealthBody::live(&api.raft.status().borrow()).response()
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    HealthBody::ready(&api.raft.status().borrow()).response()
}

async fn health(State(api): State<Arc<Api>>) -> Response {
    let mut body = HealthBody::ready(&api.raft.status().borrow());
    body.reasons.extend(api.findings().await);
    body.response()
}

pub(super) fn snapshots(status: &RaftStatus) -> SnapshotsBody {
    let snapshots = &status.snapshots;
    let transfer = |to: Option<NodeId>, transfer: &TransferStatus| SnapshotProgressBody {
        to: to.map(|node| node.0),
        index: transfer.last.index,
        bytes: transfer.bytes,
        size_bytes: transfer.size_bytes,
    };
    SnapshotsBody {
        index: status.snapshot.index,
        log_after: status.base.index,
        receiving: snapshots.receiving.as_ref().map(|receiving| transfer(None, receiving)),
        sending: snapshots.sending.iter().map(|(&to, sending)| transfer(Some(to), sending)).collect(),
        taken: snapshots.taken,
        sends_begun: snapshots.sends_begun,
        receives_begun: snapshots.receives_begun,
        last_failure: snapshots.last_failure.as_deref().map(str::to_owned),
    }
}

/// The configuration's nodes and their roles.
pub(crate) fn members(membership: &Membership) -> Vec<MemberBody> {
    let role = |node: NodeId| match node {
        _ if membership.voters.contains(&node) => "voter",
        _ if membership.outgoing.contains(&node) => "outgoing",
        _ => "learner",
    };
    let member = |(node, info): (&NodeId, &raft_core::NodeInfo)| MemberBody {
        id: node.0,
        role: role(*node).to_owned(),
        address: info.address.clone(),
        client_address: info.client_address.clone(),
        incarnation: info.incarnation.to_string(),
        suspended: membership.suspended.contains(node),
    };
    membership.nodes.iter().map(member).collect()
}

async fn init(State(api): State<Arc<Api>>, body: Bytes) -> Response {
    let body: InitBody = match parsed(&body) {
        Ok(body) => body,
        Err(error) => return respond(&error),
    };
    for founder in &body.members {
        for address in [&founder.address, &founder.client_address] {
            if let Err(wrong) = host_and_port(address) {
                return refuse(ErrorCode::Invalid, format!("member {}: {wrong}", founder.id));
            }
        }
    }
    let ids: std::collections::BTreeSet<u64> = body.members.iter().map(|founder| founder.id).collect();
    if ids.len() != body.members.len() {
        return refuse(ErrorCode::Invalid, "an id is given twice");
    }
    let members = body
        .members
        .iter()
        .map(|founder| (NodeId(founder.id), founder.address.clone(), founder.client_address.clone()));
    let founding = api.raft.bootstrap(members);
    match tokio::time::timeout(Duration::from_millis(MAX_TIMEOUT_MS / 2), founding).await {
        Ok(Ok(())) => json(StatusCode::OK, &body),
        Ok(Err(error)) => refuse(founding_error(&error), error.to_string()),
        Err(_) => refuse(
            ErrorCode::Unknown,
            "the cluster was not founded in time: see that all members run, then repeat the same command",
        ),
    }
}

fn founding_error(error: &RaftError) -> ErrorCode {
    match error {
        RaftError::Bootstrap(_) => ErrorCode::Conflict,
        _ => ErrorCode::Unknown,
    }
}

async fn transfer(State(api): State<Arc<Api>>, asked: Asked, body: Bytes) -> Response {
    let wanted = if body.is_empty() { Ok(TransferBody::default()) } else { parsed(&body) };
    let call = wanted.map(|TransferBody { to }| asked.call(Work::Transfer(to.map(NodeId)), body));
    carried_out(&api, call).await
}

async fn set_lease(State(api): State<Arc<Api>>, asked: Asked, body: Bytes) -> Response {
    let call = parsed::<LeaseBody>(&body).map(|lease| asked.call(Work::Lease(Some(lease)), body));
    carried_out(&api, call).await
}

async fn end_lease(State(api): State<Arc<Api>>, asked: Asked) -> Response {
    api.carry_out(asked.call(Work::Lease(None), Bytes::new())).await
}

async fn list_members(
    State(api): State<Arc<Api>>,
    options: Options<MembersOptions>,
    asked: Asked,
) -> Response {
    let call = match options_of(options) {
        Ok(MembersOptions { stale: true }) => return respond(&members_of(&api.raft.status().borrow())),
        Ok(MembersOptions { stale: false }) => Ok(asked.call(Work::Members, Bytes::new())),
        Err(error) => Err(error),
    };
    carried_out(&api, call).await
}

async fn change_members(State(api): State<Arc<Api>>, asked: Asked, body: Bytes) -> Response {
    let call = parsed::<ChangeBody>(&body).map(|change| asked.call(Work::Change(change), body));
    carried_out(&api, call).await
}

async fn give_up_change(State(api): State<Arc<Api>>, asked: Asked) -> Response {
    api.carry_out(asked.call(Work::GiveUpChange, Bytes::new())).await
}

async fn open_session(State(api): State<Arc<Api>>, asked: Asked) -> Response {
    api.carry_out(asked.call(Work::OpenSession, Bytes::new())).await
}

async fn close_session(State(api): State<Arc<Api>>, path: KeyPath, asked: Asked) -> Response {
    let call =
        path.map_err(|e| ErrorBody::new(ErrorCode::Invalid, e.body_text())).and_then(|Path(session)| {
            let session = session.parse::<SessionId>();
            let session = session.map_err(|e| ErrorBody::new(ErrorCode::Invalid, e.to_string()))?;
            Ok(asked.call(Work::CloseSession(session), Bytes::new()))
        });
    carried_out(&api, call).await
}

/// Something that can be sent back.
pub(super) trait Respond {
    fn response(&self) -> Response;
}

pub(super) fn respond(body: &impl Respond) -> Response {
    body.response()
}

/// An answer, and which state it comes from.
pub(super) fn respond_read(reading: &Reading<Answer>) -> Response {
    let mut response = respond(&reading.answer);
    response
        .headers_mut()
        .insert(HeaderName::from_static(APPLIED_HEADER), HeaderValue::from(reading.applied));
    response
}

pub(super) fn refuse(code: ErrorCode, message: impl Into<String>) -> Response {
    respond(&ErrorBody::new(code, message))
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Respond for ErrorBody {
    fn response(&self) -> Response {
        let status = StatusCode::from_u16(self.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(status, self)
    }
}

impl Respond for SessionBody {
    fn response(&self) -> Response {
        json(StatusCode::OK, self)
    }
}

impl Respond for TransferredBody {
    fn response(&self) -> Response {
        json(StatusCode::OK, self)
    }
}

impl Respond for MembersBody {
    fn response(&self) -> Response {
        json(StatusCode::OK, self)
    }
}

impl Respond for ChangedBody {
    fn response(&self) -> Response {
        json(StatusCode::OK, self)
    }
}

impl Respond for Reply {
    fn response(&self) -> Response {
        match self {
            Self::Written(revisions) => json(StatusCode::OK, revisions),
            Self::Deleted { revision } => json(StatusCode::OK, &DeletedBody { revision: *revision }),
            Self::Absent => refuse(ErrorCode::NotFound, "no such key"),
            Self::Mismatch { current } => {
                let message = match current {
                    None => "the key does not exist; nothing changed".to_owned(),
                    Some(Revisions { modify_revision, .. }) => {
                        format!(
                            "the key is not as expected (its revision is {modify_revision}); nothing changed"
                        )
                    }
                };
                respond(&ErrorBody { error: ErrorCode::Mismatch, message, current: *current })
            }
        }
    }
}

impl Respond for Answer {
    fn response(&self) -> Response {
        match self {
            Self::Got(None) => refuse(ErrorCode::NotFound, "no such key"),
            Self::Got(Some(pair)) => {
                let mut response = Response::new(Body::from(pair.value.clone()));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                for (name, number) in [
                    (CREATE_REVISION_HEADER, pair.revisions.create_revision),
                    (MODIFY_REVISION_HEADER, pair.revisions.modify_revision),
                    (VERSION_HEADER, pair.revisions.version),
                ] {
                    headers.insert(HeaderName::from_static(name), HeaderValue::from(number));
                }
                response
            }
            Self::Scanned(page) => json(StatusCode::OK, &PageBody::from(page.clone())),
            Self::Summary(summary) => json(StatusCode::OK, summary),
        }
    }
}
