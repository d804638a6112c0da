//! A small HTTP server for what others ask about a component itself: health, readiness, metrics. Bounded, since anybody
//! in the cluster may ask.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Questions in flight at once; more wait in the listener's queue.
const CONNECTIONS: usize = 64;
/// A question that takes longer is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who is not accepted for want of descriptors stays in the queue, so the next attempt would fail at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers one question a connection, until cancelled.
pub async fn serve<A>(listener: TcpListener, stop: CancellationToken, answer: A)
where
    A: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    serve_patiently(PATIENCE, listener, stop, answer).await;
}

async fn serve_patiently<A>(patience: Duration, listener: TcpListener, stop: CancellationToken, answer: A)
where
    A: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    let mut asked = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = asked.join_next(), if !asked.is_empty() => continue,
            accepted = listener.accept(), if asked.len() < CONNECTIONS => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_the_askers(&error) => continue,
            Err(_) => {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
        };
        let answer = answer.clone();
        asked.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Who hangs up or dawdles does so at their own cost.
            let _ = tokio::time::timeout(patience, connection).await;
        });
    }
}

/// Came and went before they were accepted.
fn is_the_askers(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn who_says_nothing_keeps_nobody_out_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let path = |request: &Request<Incoming>| Response::new(Full::from(request.uri().path().to_owned()));
        let serving = tokio::spawn(serve_patiently(Duration::from_millis(200), listener, stop.clone(), path));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address).await.ends_with("/x"));
        stop.cancel();
        serving.await.unwrap();
    }
}
