//! Carrying a request out where it belongs: a read here, on any node; all else here if this node leads, else on the leader, found
//! and waited for.
//!
//! What may be tried again follows one rule. A write is tried again only if it was surely not carried out: this node or
//! the leader said so, or the connection to the leader was never made. A connection that breaks after the request went
//! out leaves a write unknown, and the caller is told. A read changes nothing and is tried again.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use raft_core::session::{Serial, SessionError, SessionId};
use raft_core::{Consistency, NodeId, RaftError};
use tokio::time::Instant;

use super::members::{ChangeBody, ChangedBody};
use super::membership::{NotChanged, members_of};
use super::server::{Api, Respond, respond, respond_read};
use super::{
    ErrorBody, ErrorCode, FORWARDED_HEADER, LeaseBody, SessionBody, TIMEOUT_HEADER, TransferredBody,
};
use crate::client::{Backoff, CONNECT_TIMEOUT, read_body, with_serial};
use crate::command::{Command, Query};

/// A read is asked again after this: the leader that it waits for may hang.
const READ_ATTEMPT: Duration = Duration::from_secs(2);

/// How long a node that belongs to no cluster waits to be told of one.
const UNFOUNDED_WAIT: Duration = Duration::from_millis(1500);

/// A request that needs a leader, on this node or another.
pub(super) struct Call {
    /// What it asks for.
    pub(super) work: Work,
    /// The request as it came, to be passed on.
    pub(super) method: Method,
    /// Path and query, still encoded.
    pub(super) target: String,
    pub(super) body: Bytes,
    /// When the caller gives up.
    pub(super) deadline: Instant,
    /// Whether a node passed it on already.
    pub(super) forwarded: bool,
}

pub(super) enum Work {
    /// In a session, if it has one.
    Write(Command, Option<Serial>),
    OpenSession,
    CloseSession(SessionId),
    /// Leadership is to go to this node, or to the best.
    Transfer(Option<NodeId>),
    /// The members are to be changed.
    Change(ChangeBody),
    /// The change of the members that is under way is given up.
    GiveUpChange,
    /// Lease reads are to rest on this, or there are to be none.
    Lease(Option<LeaseBody>),
    /// The members, as the leader sees them.
    Members,
    Read(Query, Consistency),
}

impl Work {
    /// Whether it may be done twice without harm.
    const fn is_read(&self) -> bool {
        matches!(self, Self::Members | Self::Read(..))
    }
}

/// What came of one attempt.
enum Attempt {
    /// This is the answer.
    Done(Response),
    /// Surely not carried out, for this reason.
    NotDone(ErrorBody),
}

impl Api {
    /// Carries a call out.
    pub(super) async fn carry_out(&self, call: Call) -> Response {
        let began = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let view = self.view();
            if let Some(reason) = view.failed {
                // Another node serves; the caller finds it sooner than one that has stopped.
                let message = format!("this node has stopped: {reason}");
                return respond(&ErrorBody::new(ErrorCode::Failed, message));
            }
            let any_node = matches!(call.work, Work::Read(..)) && view.founded;
            let attempt = if view.leads || any_node {
                self.here(&call).await
            } else if let Some(leader) = view.leader
                && !call.forwarded
            {
                self.on_leader(&call, leader).await
            } else if !view.founded {
                let error = ErrorBody::new(
                    ErrorCode::NotInitialized,
                    "this node belongs to no cluster yet: found one with `raft-kv init`",
                );
                if began.elapsed() >= UNFOUNDED_WAIT {
                    return respond(&error);
                }
                Attempt::NotDone(error)
            } else {
                Attempt::NotDone(ErrorBody::new(ErrorCode::Unavailable, "no leader is known; try again"))
            };
            let error = match attempt {
                Attempt::Done(response) => return response,
                Attempt::NotDone(error) => error,
            };
            if let Some(outside) = view.outside {
                // It may never hear of another leader.
                let message = format!("{outside}: ask another node");
                return respond(&ErrorBody::new(ErrorCode::Unavailable, message));
            }
            let pause = backoff.next();
            // A node that was taken for the leader and is not says so at once: the sender knows where to look.
            if call.forwarded || Instant::now() + pause + CONNECT_TIMEOUT >= call.deadline {
                return respond(&error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// On this node.
    async fn here(&self, call: &Call) -> Attempt {
        let raft = self.raft();
        match &call.work {
            Work::Write(command, serial) => {
                let write = async {
                    match serial {
                        Some(serial) => raft.propose_in(*serial, command).await,
                        None => raft.propose(command).await,
                    }
                };
                in_time(call.deadline, write, "the write was not confirmed in time and may still happen")
                    .await
            }
            Work::OpenSession => {
                let open = async {
                    raft.open_session().await.map(|session| SessionBody { session: session.to_string() })
                };
                in_time(call.deadline, open, "the session was not opened in time").await
            }
            Work::CloseSession(session) => {
                let close = async {
                    raft.close_session(*session).await.map(|()| SessionBody { session: session.to_string() })
                };
                in_time(call.deadline, close, "the session was not closed in time and may still be").await
            }
            Work::Transfer(to) => {
                match tokio::time::timeout_at(call.deadline, raft.transfer_leadership(*to)).await {
                    Ok(Ok(leader)) => Attempt::Done(respond(&TransferredBody { leader: leader.0 })),
                    Ok(Err(error)) => refusal(&error),
                    Err(_) => Attempt::Done(respond(&ErrorBody::new(
                        ErrorCode::Unknown,
                        "the node named did not take over in time and may still",
                    ))),
                }
            }
            Work::Change(asked) => {
                changed(tokio::time::timeout_at(call.deadline, self.change_members(asked)).await)
            }
            Work::GiveUpChange => {
                changed(tokio::time::timeout_at(call.deadline, self.give_up_change()).await)
            }
            Work::Lease(lease) => {
                changed(tokio::time::timeout_at(call.deadline, self.set_lease(*lease)).await)
            }
            Work::Members => Attempt::Done(respond(&members_of(&raft.status().borrow()))),
            Work::Read(query, consistency) => {
                let deadline = call.deadline.min(Instant::now() + READ_ATTEMPT);
                match tokio::time::timeout_at(deadline, raft.read_with(query, *consistency)).await {
                    Ok(Ok(reading)) => Attempt::Done(respond_read(&reading)),
                    // A read changes nothing: where its outcome is unknown, it is asked again.
                    Ok(Err(RaftError::Unknown)) | Err(_) => Attempt::NotDone(ErrorBody::new(
                        ErrorCode::Unavailable,
                        "no majority confirmed the read in time; try again",
                    )),
                    Ok(Err(error)) => refusal(&error),
                }
            }
        }
    }

    /// On the node whose clients reach it at `leader`.
    async fn on_leader(&self, call: &Call, leader: String) -> Attempt {
        let write = !call.work.is_read();
        let mut left = call.deadline.saturating_duration_since(Instant::now());
        if !write {
            left = left.min(READ_ATTEMPT);
        }
        // The leader gives up a little earlier, so that its word comes before this node's guess.
        let leader_timeout = left.mul_f32(0.9).as_millis() as u64;
        let request = self
            .http()
            .request(call.method.clone(), format!("http://{leader}{}", call.target))
            .header(FORWARDED_HEADER, "1")
            .header(TIMEOUT_HEADER, leader_timeout.max(1))
            .timeout(left)
            .body(call.body.clone());
        let request = match &call.work {
            Work::Write(_, Some(serial)) => with_serial(request, *serial),
            _ => request,
        };
        let lost = |error: reqwest::Error| {
            if error.is_connect() || !write {
                let message = format!("the leader at {leader} cannot be reached; try again");
                Attempt::NotDone(ErrorBody::new(ErrorCode::Unavailable, message))
            } else {
                let message = format!("the leader at {leader} broke off; it may have happened");
                Attempt::Done(respond(&ErrorBody::new(ErrorCode::Unknown, message)))
            }
        };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return lost(error),
        };
        let status = response.status();
        let mut headers = std::mem::take(response.headers_mut());
        let body = match read_body(response).await {
            Ok(body) => body,
            Err(error) => return lost(error),
        };
        if status == StatusCode::SERVICE_UNAVAILABLE
            && let Ok(error) = serde_json::from_slice::<ErrorBody>(&body)
            && matches!(error.error, ErrorCode::Unavailable | ErrorCode::Failed | ErrorCode::NotInitialized)
        {
            return Attempt::NotDone(error);
        }
        Attempt::Done(relayed(status, &mut headers, body))
    }
}

/// An answer that comes by the deadline; after it the outcome is unknown.
async fn in_time<T: Respond>(
    deadline: Instant,
    work: impl Future<Output = Result<T, RaftError>>,
    unknown: &str,
) -> Attempt {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(Ok(reply)) => Attempt::Done(respond(&reply)),
        Ok(Err(error)) => refusal(&error),
        Err(_) => Attempt::Done(respond(&ErrorBody::new(ErrorCode::Unknown, unknown))),
    }
}

/// The leader's answer, without what belongs to its connection.
fn relayed(status: StatusCode, headers: &mut HeaderMap, body: Bytes) -> Response {
    for name in [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::DATE] {
        headers.remove(name);
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    std::mem::swap(response.headers_mut(), headers);
    response
}

fn changed<E>(outcome: Result<Result<ChangedBody, NotChanged>, E>) -> Attempt {
    match outcome {
        Ok(Ok(changed)) => Attempt::Done(respond(&changed)),
        Ok(Err(NotChanged::Refused(error))) => Attempt::Done(respond(&error)),
        Ok(Err(NotChanged::Failed(error))) => refusal(&error),
        Err(_) => Attempt::Done(respond(&ErrorBody::new(
            ErrorCode::Unknown,
            "the change was not confirmed in time and may still happen",
        ))),
    }
}

/// What the handle's error means for a request.
fn refusal(error: &RaftError) -> Attempt {
    let code = match error {
        RaftError::Overloaded => ErrorCode::Overloaded,
        RaftError::TooLarge { .. } => ErrorCode::TooLarge,
        RaftError::Transfer(_) | RaftError::Membership(_) => ErrorCode::Conflict,
        RaftError::Session(SessionError::Expired) => ErrorCode::SessionExpired,
        RaftError::Session(SessionError::NotYet) => ErrorCode::NoSessions,
        RaftError::Session(SessionError::Full | SessionError::TooMany) => ErrorCode::Overloaded,
        RaftError::Fatal { .. } | RaftError::Query(_) => ErrorCode::Failed,
        _ if error.is_refused() => ErrorCode::Unavailable,
        _ => ErrorCode::Unknown,
    };
    let body = ErrorBody::new(code, error.to_string());
    if code == ErrorCode::Unavailable { Attempt::NotDone(body) } else { Attempt::Done(respond(&body)) }
}
