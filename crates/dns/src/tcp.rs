//! Questions by TCP (RFC 7766): many on a connection, answered as soon as each is ready.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::metrics::Transport;
use crate::resolver::{Reaction, Resolver};

const CONNECTIONS_MAX: usize = 1000;
/// Questions of one connection that may wait for other servers; reading goes on when one is answered.
const WAITING_MAX: usize = 100;
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// RFC 7766 section 6.2.3: a few seconds.
const IDLE: Duration = Duration::from_secs(10);

pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, transport: "TCP", source })
}

/// Answers until cancelled.
pub async fn serve(listener: TcpListener, resolver: Arc<Resolver>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, say: asked again at once, it fails at once.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let resolver = resolver.clone();
        connections.spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _ = connection(stream, &resolver).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let mut waiting = FuturesUnordered::new();
    let mut open = true;
    let mut reading = Box::pin(read(&mut reader));
    while open || !waiting.is_empty() {
        let response = tokio::select! {
            Some(response) = waiting.next() => response,
            message = &mut reading, if open && waiting.len() < WAITING_MAX => {
                let Ok(message) = message else {
                    open = false;
                    continue;
                };
                drop(reading);
                reading = Box::pin(read(&mut reader));
                match resolver.react(&message, Transport::Tcp) {
                    Reaction::Respond(response) => response,
                    Reaction::Wait(question) => {
                        waiting.push(resolver.finish(*question));
                        continue;
                    }
                    Reaction::Ignore => return Ok(()),
                }
            }
        };
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), response.as_slice()].concat();
        // Who asks and doesn't read holds no connection for ever.
        tokio::time::timeout(IDLE, writer.write_all(&message)).await.map_err(io::Error::from)??;
    }
    Ok(())
}

async fn read(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let whole = async {
        let length = reader.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        reader.read_exact(&mut message).await?;
        Ok(message)
    };
    tokio::time::timeout(IDLE, whole).await.map_err(io::Error::from)?
}
