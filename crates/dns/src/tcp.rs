//! Questions by TCP (RFC 7766): many on a connection, answered as soon as each is ready.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::metrics::Transport;
use crate::resolver::{Asked, Reaction, Resolver};

const CONNECTIONS_MAX: usize = 1000;
/// Questions of one connection that may wait for other servers; reading goes on when one is answered.
const WAITING_MAX: usize = 100;
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// RFC 7766 section 6.2.3: a few seconds.
const IDLE: Duration = Duration::from_secs(10);
/// The same as RFC 7828 counts it: in tenths of a second.
const IDLE_TENTHS: u16 = 100;

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
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
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
            let _ = connection(stream, client.ip(), &resolver).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, client: IpAddr, resolver: &Resolver) -> io::Result<()> {
    let asked = Asked { transport: Transport::Tcp, client, keepalive: Some(IDLE_TENTHS) };
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
                match resolver.react(&message, asked) {
                    Reaction::Respond(response) => response,
                    Reaction::Wait(question) => {
                        waiting.push(resolver.finish(*question));
                        continue;
                    }
                    Reaction::Transfer(zone) => {
                        for message in *zone {
                            write(&mut writer, &message).await?;
                        }
                        continue;
                    }
                    Reaction::Ignore => return Ok(()),
                }
            }
        };
        write(&mut writer, &response).await?;
    }
    Ok(())
}

/// Who asks and doesn't read holds no connection for ever.
async fn write(writer: &mut OwnedWriteHalf, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), message].concat();
    tokio::time::timeout(IDLE, writer.write_all(&framed)).await.map_err(io::Error::from)?
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
