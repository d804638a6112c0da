//! Raw requests and watches over HTTP, with what came line by line. Not responsible for what is asked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long one request may take: the servers themselves wait seconds for a revision of the future.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where what a client is told is kept, so that it isn't lost with one that is given up.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<Value>>>);

impl Lines {
    pub fn push(&self, line: Value) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The object at which a client stops: its name, with the annotation that only last writes have.
#[derive(Clone, Debug)]
pub struct End {
    pub namespace: String,
    pub name: String,
}

impl End {
    /// Whether an event is about it; in a Table it is a row's object.
    pub fn is(&self, object: &Value) -> bool {
        let object = match object["rows"][0]["object"].is_object() {
            true => &object["rows"][0]["object"],
            false => object,
        };
        let metadata = &object["metadata"];
        metadata["name"] == self.name.as_str()
            && metadata["namespace"] == self.namespace.as_str()
            && metadata["annotations"]["end"].is_string()
    }
}

/// A request without a body: code, media type, answer.
pub async fn get(client: &Client, path: &str, accept: &str) -> Result<(u16, Value)> {
    let request = Request::get(path).header("accept", accept).body(Body::empty())?;
    let (code, bytes) = exchange(client, request).await.with_context(|| format!("GET {path}"))?;
    let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
    Ok((code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
}

/// A request's code and answer, within the bound for both.
pub async fn exchange(client: &Client, request: Request<Body>) -> Result<(u16, Bytes)> {
    let answered = async {
        let response = client.send(request).await?;
        let code = response.status().as_u16();
        Ok((code, response.into_body().collect().await?.to_bytes()))
    };
    timeout(PATIENCE, answered).await.context("no answer within the bound")?
}

/// Follows a watch until its end, the server's, or for ever.
pub async fn follow(
    client: Client,
    path: String,
    accept: &'static str,
    end: Option<End>,
    lines: Lines,
    opened: oneshot::Sender<()>,
) -> Result<()> {
    let request = Request::get(&path).header("accept", accept).body(Body::empty())?;
    let response = client.send(request).await.with_context(|| format!("GET {path}"))?;
    // Nobody waits any more for one that opens too late.
    let _ = opened.send(());
    let code = response.status().as_u16();
    let media = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    lines.push(json!({"code": code, "media": media}));
    let mut body = response.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(at) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=at).collect();
            let event: Value = serde_json::from_slice(&line).context("an event")?;
            let last = end.as_ref().is_some_and(|end| end.is(&event["object"]));
            lines.push(event);
            if last {
                lines.push(json!("the end"));
                return Ok(());
            }
        }
    }
    if let Ok(answer) = serde_json::from_slice(&pending) {
        lines.push(answer);
    }
    lines.push(json!("the server ended it"));
    Ok(())
}
