//! Pulling for others: a node has no way to a registry, so it asks its supervisor over a unix socket. A line of JSON each
//! way; hanging up ends the pull.
//!
//! Whoever can open the socket is trusted, as with the API's. Not responsible for making it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::keys::PullSecret;
use super::puller::Puller;
use crate::digest::Digest;

/// Secrets are at most 1 MiB each (Kubernetes' limit), and a pod hardly has more than a few.
const LONGEST_REQUEST: u64 = 16 << 20;
/// Asked at a time; more wait in the socket's queue.
const REQUESTS: usize = 256;
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    reference: String,
    secrets: Vec<PullSecret>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Reply {
    Image(Digest),
    Failed(String),
}

/// A supervisor's puller, seen from a node.
#[derive(Clone, Debug)]
pub struct RemotePuller {
    socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum RemotePullError {
    /// In the supervisor's words.
    #[error("{0}")]
    Failed(String),
    #[error("cannot ask the supervisor to pull it: {0}")]
    Supervisor(#[from] io::Error),
}

/// Serves until it is stopped; pulls under way end with it.
pub async fn serve(listener: UnixListener, puller: Puller, stop: CancellationToken) {
    let mut asked = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = asked.join_next() => {}
            accepted = listener.accept(), if asked.len() < REQUESTS => match accepted {
                Ok((stream, _)) => {
                    let puller = puller.clone();
                    asked.spawn(async move {
                        if let Err(error) = answer(stream, &puller).await {
                            tracing::info!(%error, "whoever asked for a pull is gone");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, say: asked again at once, it fails at once.
                    tracing::warn!(%error, "cannot take a request to pull");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
}

async fn answer(stream: UnixStream, puller: &Puller) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading.take(LONGEST_REQUEST));
    let mut line = String::new();
    reading.read_line(&mut line).await?;
    let request: Request = serde_json::from_str(&line)?;
    let reply = tokio::select! {
        pulled = puller.pull(&request.reference, &request.secrets) => match pulled {
            Ok(id) => Reply::Image(id),
            Err(error) => Reply::Failed(error.to_string()),
        },
        // Nothing more is to come: an end means that nobody waits any longer.
        _ = reading.read_u8() => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    writing.write_all(&line).await
}

impl RemotePuller {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Has the image brought to the common store, and gives its id.
    pub async fn pull(&self, reference: &str, secrets: Vec<PullSecret>) -> Result<Digest, RemotePullError> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let request = Request { reference: reference.to_owned(), secrets };
        let mut line = serde_json::to_vec(&request).map_err(io::Error::from)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut reply = String::new();
        BufReader::new(stream.take(LONGEST_REQUEST)).read_line(&mut reply).await?;
        match serde_json::from_str(&reply).map_err(io::Error::from)? {
            Reply::Image(id) => Ok(id),
            Reply::Failed(said) => Err(RemotePullError::Failed(said)),
        }
    }
}
