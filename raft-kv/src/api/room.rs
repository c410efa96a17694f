//! Room for requests: how many are under way at once, and how many bytes they hold.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::Method;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};
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
    /// The most bytes of their heads and bodies, each counted from before it is read until the last byte of its answer is on its way: a
    /// body by its `Content-Length`, or as long as a body may be while it comes without one; and of the answers to reads, as far
    /// as they are longer. Default: 64 MiB.
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
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    looks: Semaphore,
}

/// A request's place, given back when this is dropped.
pub(super) struct Place {
    _request: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
    all_bytes: Arc<Semaphore>,
    reads: bool,
}

impl Place {
    /// Keeps the place until the whole answer is on its way: a caller that takes it slowly holds it in memory.
    pub(super) fn keep(mut self, answer: Response) -> Result<Response, ErrorBody> {
        let (parts, body) = answer.into_parts();
        // What is carried out cannot be refused any more, and its answer is short. A stream is never in memory whole.
        let held = self.bytes.num_permits();
        let more = body.size_hint().exact().map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if self.reads && more > held {
            let more = u32::try_from(more - held).unwrap_or(u32::MAX);
            self.bytes.merge(Arc::clone(&self.all_bytes).try_acquire_many_owned(more).map_err(overloaded)?);
        }
        Ok(Response::from_parts(parts, Body::new(Answer { body, rest: Bytes::new(), _place: self })))
    }
}

/// An answer goes out in pieces of this size: the server takes only so many ahead of the caller, and drops it with the last.
const PIECE_BYTES: usize = 64 << 10;

/// An answer's body with the place that it takes.
struct Answer {
    body: Body,
    /// What came of the body and has not gone out.
    rest: Bytes,
    _place: Place,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        hint.exact().map_or_else(SizeHint::default, |exact| SizeHint::with_exact(exact + rest))
    }
}

impl Room {
    pub(super) fn new(limits: RequestLimits) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self {
            requests: semaphore(limits.max_requests),
            bytes: semaphore(limits.max_bytes),
            looks: Semaphore::new(MAX_LOOKS),
        }
    }

    /// Takes a client's request in, and reads its body, until the request's deadline at most.
    pub(super) async fn admit(&self, request: Request) -> Result<(Request, Place), ErrorBody> {
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

    async fn take_in(&self, parts: &mut Parts, body: &mut Body) -> Result<(Bytes, Place), ErrorBody> {
        let deadline = Instant::now() + timeout_of(&parts.headers)?;
        parts.extensions.insert(Deadline(deadline));
        let most = body.size_hint().upper().unwrap_or(MAX_VALUE_BYTES as u64);
        let most =
            usize::try_from(most).ok().filter(|most| *most <= MAX_VALUE_BYTES).ok_or_else(too_large)?;
        let request = Arc::clone(&self.requests).try_acquire_owned().map_err(overloaded)?;
        let cost = u32::try_from(head_bytes(parts) + most).unwrap_or(u32::MAX);
        let mut bytes = Arc::clone(&self.bytes).try_acquire_many_owned(cost).map_err(overloaded)?;
        let late = |_| {
            ErrorBody::new(ErrorCode::Unavailable, "the request did not come whole before its time was up")
        };
        let whole = timeout_at(deadline, read(body)).await.map_err(late)??;
        drop(bytes.split(most.saturating_sub(whole.len())));
        let (all_bytes, reads) = (Arc::clone(&self.bytes), parts.method == Method::GET);
        Ok((whole, Place { _request: request, bytes, all_bytes, reads }))
    }

    /// A place for a question about the node itself. Clients take none of these.
    pub(super) fn look(&self) -> Result<SemaphorePermit<'_>, ErrorBody> {
        let overloaded =
            |_| ErrorBody::new(ErrorCode::Overloaded, "too many look at this node at once: repeat it later");
        self.looks.try_acquire().map_err(overloaded)
    }
}

fn overloaded(_: TryAcquireError) -> ErrorBody {
    ErrorBody::new(ErrorCode::Overloaded, "too many requests at once: repeat it later")
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
