//! What the client makes of answers, against a node that answers as it is told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use raft_kv::api::ErrorCode;
use raft_kv::client::{Client, ClientError};
use raft_kv::command::Expected;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The answers that are left, the last of them for ever, and what was asked.
#[derive(Default)]
struct Script {
    answers: VecDeque<(u16, String)>,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Script>>;

async fn answer(State(script): State<Shared>, request: Request) -> Response {
    let mut script = script.lock().unwrap();
    script.asked.push(format!("{} {}", request.method(), request.uri().path()));
    let next =
        if script.answers.len() > 1 { script.answers.pop_front() } else { script.answers.front().cloned() };
    let (status, body) = next.unwrap();
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

/// A client of a node that gives these answers, one after the other, and what it was asked.
async fn client(answers: &[(u16, &str)]) -> (Client, Shared) {
    let answers = answers.iter().map(|&(status, body)| (status, body.to_owned())).collect();
    let script = Arc::new(Mutex::new(Script { answers, asked: Vec::new() }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = Router::new().fallback(answer).with_state(Arc::clone(&script));
    tokio::spawn(async { axum::serve(listener, app).await });
    (Client::new(&[address]).unwrap().with_timeout(Duration::from_secs(2)), script)
}

const OPENED: (u16, &str) = (200, r#"{"session":"7-0000000000000001"}"#);
const UNKNOWN: (u16, &str) = (504, r#"{"error":"unknown","message":"the outcome is not known"}"#);
const CONFLICT: (u16, &str) = (409, r#"{"error":"conflict","message":"another one"}"#);
const NO_SESSIONS: (u16, &str) = (503, r#"{"error":"no_sessions","message":"not known to all"}"#);
const MISMATCH: (u16, &str) = (412, r#"{"error":"mismatch","message":"it is another value"}"#);
const NOT_FOUND: (u16, &str) = (404, r#"{"error":"not_found","message":"no such key"}"#);

#[tokio::test]
async fn what_may_have_happened_is_not_refused_by_a_later_refusal() {
    for refusal in [CONFLICT, NO_SESSIONS] {
        let (client, _) = client(&[OPENED, UNKNOWN, refusal]).await;
        let outcome = client.with_session().put("key", Bytes::from_static(b"value")).await;
        assert!(matches!(outcome, Err(ClientError::Unknown(_))), "{refusal:?}: {outcome:?}");
    }
    // Without a session a second delete finds nothing where the first one was carried out.
    let (client, _) = client(&[UNKNOWN, NOT_FOUND]).await;
    let outcome = client.repeating().delete("key", None).await;
    assert!(matches!(outcome, Err(ClientError::Unknown(_))), "{outcome:?}");
}

#[tokio::test]
async fn what_the_store_says_to_a_number_holds_for_each_attempt() {
    let (client, script) = client(&[OPENED, UNKNOWN, MISMATCH]).await;
    let expected = Expected::Value(Bytes::from_static(b"old"));
    let outcome = client.with_session().compare_and_swap("key", &expected, Bytes::from_static(b"new")).await;
    assert_eq!(outcome.unwrap_err().code(), Some(ErrorCode::Mismatch));
    assert_eq!(script.lock().unwrap().asked, ["POST /sessions", "PUT /kv/key", "PUT /kv/key"]);
}

#[tokio::test]
async fn what_is_to_happen_once_does_not_happen_without_a_session() {
    let (client, script) = client(&[NO_SESSIONS]).await;
    let outcome = client.with_session().put("key", Bytes::from_static(b"value")).await;
    assert_eq!(outcome.unwrap_err().code(), Some(ErrorCode::NoSessions));
    let asked = script.lock().unwrap().asked.clone();
    assert!(asked.len() > 1, "asked again until the time was up");
    assert!(asked.iter().all(|asked| asked == "POST /sessions"), "{asked:?}");
}

#[tokio::test]
async fn half_an_answer_to_a_backup_is_not_waited_for_beyond_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _request = stream.read(&mut [0; 1024]).await;
            let half = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\n{\"error\":";
            stream.write_all(half.as_bytes()).await.unwrap();
            connections.push(stream);
        }
    });
    let client = Client::new(&[address]).unwrap().with_timeout(Duration::from_millis(500));
    let backup = tokio::time::timeout(Duration::from_secs(60), client.backup(false)).await.expect("it ends");
    assert_eq!(backup.unwrap_err().code(), Some(ErrorCode::Unavailable));
}
