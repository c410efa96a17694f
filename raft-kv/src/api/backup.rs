//! `GET /backup`: a snapshot of the state, taken now and streamed as the file that it is.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_core::Stream;
use raft_core::RaftError;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::ErrorCode;
use super::server::{Api, Options, options_of, refuse, respond};
use crate::command::Query;

/// How much is read and sent at once, and how many of these wait for a slow reader.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS: usize = 4;

/// What may stand behind the `?`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupOptions {
    /// Take what this node has, though it may lag behind what was confirmed to others.
    #[serde(default)]
    stale: bool,
}

pub(super) async fn backup(State(api): State<Arc<Api>>, options: Options<BackupOptions>) -> Response {
    let options = match options_of(options) {
        Ok(options) => options,
        Err(error) => return respond(&error),
    };
    // A leader that has proved to lead holds all that was ever confirmed.
    if !options.stale
        && let Err(error) = api.raft().read(&Query::Summary).await
    {
        let message = format!("{error}; ask the leader, or take what this node has with stale=true");
        return refuse(ErrorCode::Unavailable, message);
    }
    match take(&api).await {
        Ok((bytes, file)) => {
            let mut response = Response::new(Body::from_stream(Chunks::of(file)));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            response
        }
        Err(error) => refuse(ErrorCode::Failed, error),
    }
}

/// Takes a snapshot of what is committed now, and opens the newest; how long it is.
async fn take(api: &Api) -> Result<(u64, impl Read + Send + 'static + use<>), String> {
    let text = |error: RaftError| error.to_string();
    api.raft().snapshot().await.map_err(text)?;
    let newest = api.raft().latest_snapshot().await.map_err(text)?;
    let newest = newest.ok_or("the snapshot that was taken is not there any more: repeat it")?;
    let bytes = newest.meta().size_bytes;
    Ok((bytes, newest.bytes().map_err(|e| e.to_string())?))
}

/// The pieces of a file, read aside.
struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl Chunks {
    fn of(mut file: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = file.read(&mut chunk).map(|count| {
                    chunk.truncate(count);
                    Bytes::from(chunk)
                });
                let more = read.as_ref().is_ok_and(|chunk| !chunk.is_empty());
                let ends = read.as_ref().is_ok_and(Bytes::is_empty);
                // Fails where nobody reads any more.
                if ends || sender.blocking_send(read).is_err() || !more {
                    return;
                }
            }
        });
        Self(receiver)
    }
}

impl Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
