//! Room for requests: how many are under way at once, and how many bytes they hold.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::{DEFAULT_TIMEOUT_MS, ErrorBody, ErrorCode, MAX_TIMEOUT_MS, TIMEOUT_HEADER};
use crate::command::MAX_VALUE_BYTES;

/// How many questions about the node itself are under way at once: each asks its driver or its state machine.
const MAX_LOOKS: usize = 256;

/// How long the rest of a refused request is still taken in and thrown away. Cut off while it sends, a caller would not hear why.
const LINGER: Duration = Duration::from_secs(2);

/// What the requests of a node's clients may take of it. What comes on top is refused at once, as `overloaded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestLimits {
    /// The most requests under way at once. Default: 16,384.
    pub max_requests: usize,
    /// The most bytes of their heads and bodies, each counted from before it is read until it is answered: a body by its
    /// `Content-Length`, or as long as a body may be while it comes without one. Default: 64 MiB.
    pub max_bytes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { max_requests: 16_384, max_bytes: 64 << 20 }
    }
}

/// When the caller of a request gives up. Every request that was admitted has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Instant);

/// A node's room for requests.
#[derive(Debug)]
pub(super) struct Room {
    requests: Semaphore,
    bytes: Semaphore,
    looks: Semaphore,
}

/// A request's place, given back when this is dropped.
pub(super) struct Place<'a> {
    _request: SemaphorePermit<'a>,
    _bytes: SemaphorePermit<'a>,
}

impl Room {
    pub(super) fn new(limits: RequestLimits) -> Self {
        let semaphore = |permits: usize| Semaphore::new(permits.min(Semaphore::MAX_PERMITS));
        Self {
            requests: semaphore(limits.max_requests),
            bytes: semaphore(limits.max_bytes),
            looks: Semaphore::new(MAX_LOOKS),
        }
    }

    /// Takes a client's request in, and reads its body, until the request's deadline at most.
    pub(super) async fn admit(&self, request: Request) -> Result<(Request, Place<'_>), ErrorBody> {
        let (mut parts, mut body) = request.into_parts();
        match self.take_in(&mut parts, &mut body).await {
            Ok((whole, place)) => Ok((Request::from_parts(parts, Body::from(whole)), place)),
            Err(error) => {
                if !body.is_end_stream() {
                    tokio::spawn(timeout(LINGER, discard(body)));
                }
                Err(error)
            }
        }
    }

    async fn take_in(&self, parts: &mut Parts, body: &mut Body) -> Result<(Bytes, Place<'_>), ErrorBody> {
        let deadline = Instant::now() + timeout_of(&parts.headers)?;
        parts.extensions.insert(Deadline(deadline));
        let most = body.size_hint().upper().unwrap_or(MAX_VALUE_BYTES as u64);
        let most =
            usize::try_from(most).ok().filter(|most| *most <= MAX_VALUE_BYTES).ok_or_else(too_large)?;
        let overloaded =
            |_| ErrorBody::new(ErrorCode::Overloaded, "too many requests at once: repeat it later");
        let request = self.requests.try_acquire().map_err(overloaded)?;
        let cost = u32::try_from(head_bytes(parts) + most).unwrap_or(u32::MAX);
        let mut bytes = self.bytes.try_acquire_many(cost).map_err(overloaded)?;
        let late = |_| {
            ErrorBody::new(ErrorCode::Unavailable, "the request did not come whole before its time was up")
        };
        let whole = timeout_at(deadline, read(body)).await.map_err(late)??;
        drop(bytes.split(most.saturating_sub(whole.len())));
        Ok((whole, Place { _request: request, _bytes: bytes }))
    }

    /// A place for a question about the node itself. Clients take none of these.
    pub(super) fn look(&self) -> Result<SemaphorePermit<'_>, ErrorBody> {
        let overloaded =
            |_| ErrorBody::new(ErrorCode::Overloaded, "too many look at this node at once: repeat it later");
        self.looks.try_acquire().map_err(overloaded)
    }
}

/// How long a request may take.
fn timeout_of(headers: &HeaderMap) -> Result<Duration, ErrorBody> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else {
        return Ok(Duration::from_millis(DEFAULT_TIMEOUT_MS));
    };
    let millis = value.to_str().ok().and_then(|value| value.parse().ok());
    let millis = millis.filter(|millis| (1..=MAX_TIMEOUT_MS).contains(millis));
    millis.map(Duration::from_millis).ok_or_else(|| {
        let rule = format!("{TIMEOUT_HEADER} must be a number from 1 to {MAX_TIMEOUT_MS}");
        ErrorBody::new(ErrorCode::Invalid, rule)
    })
}

fn too_large() -> ErrorBody {
    let message = format!("the value is too large: at most {MAX_VALUE_BYTES} bytes");
    ErrorBody::new(ErrorCode::TooLarge, message)
}

fn head_bytes(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    target + headers.sum::<usize>()
}

/// The next piece of a body.
async fn piece(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    // Trailers are of no interest.
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

async fn read(body: &mut Body) -> Result<Bytes, ErrorBody> {
    let mut whole = BytesMut::new();
    while let Some(piece) = piece(body).await {
        let piece = piece
            .map_err(|error| ErrorBody::new(ErrorCode::Invalid, format!("the request broke off: {error}")))?;
        if whole.len() + piece.len() > MAX_VALUE_BYTES {
            return Err(too_large());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

async fn discard(mut body: Body) {
    while let Some(Ok(_)) = piece(&mut body).await {}
}
