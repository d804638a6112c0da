//! The `Check` call of `grpc.health.v1.Health`, by hand: one message of one field each way over HTTP/2.
//!
//! Not responsible for timeouts nor for TLS (a Pod's probe has none).

use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::request::{authority, connect};

/// What keeps a service from counting as healthy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CheckError {
    #[error("error: failed to connect service {address:?}: {message}")]
    Connect { address: String, message: String },
    #[error("error: health rpc probe failed: {0}")]
    Call(String),
    /// Status code 12.
    #[error("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {0}")]
    Unimplemented(String),
    #[error("service unhealthy (responded with {0:?})")]
    NotServing(&'static str),
}

/// A longer answer isn't one.
const LONGEST: usize = 1024;
const SERVING: u64 = 1;

/// Succeeds when the service says that it serves.
pub(super) async fn check(host: &str, port: u16, service: &str) -> Result<(), CheckError> {
    let address = authority(host, port);
    let failed = |message: String| CheckError::Connect { address: address.clone(), message };
    let stream = TokioIo::new(connect(host, port).await.map_err(failed)?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(Bytes::from(framed(&encode(service)))))
        .map_err(|error| CheckError::Call(error.to_string()))?;
    let call = async {
        let response = sender.send_request(request).await.map_err(|error| CheckError::Call(error.to_string()))?;
        answer(response).await
    };
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = call => answer,
        ended = &mut connection => {
            Err(CheckError::Call(ended.err().map_or_else(|| "the connection ended".to_owned(), |e| e.to_string())))
        }
    }
}

async fn answer(response: http::Response<Incoming>) -> Result<(), CheckError> {
    if response.status() != http::StatusCode::OK {
        return Err(CheckError::Call(format!("unexpected HTTP status code {}", response.status().as_u16())));
    }
    // An error may come without a body: then the status is among the headers.
    status(response.headers())?;
    let mut body = response.into_body();
    let mut message = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CheckError::Call(error.to_string()))?;
        match frame.into_data() {
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => status(frame.trailers_ref().unwrap_or(&HeaderMap::new()))?,
        }
        if message.len() > LONGEST {
            return Err(CheckError::Call("the answer is too long".to_owned()));
        }
    }
    match serving(message.get(FRAME..).unwrap_or(&[])) {
        Some(SERVING) => Ok(()),
        Some(2) => Err(CheckError::NotServing("NOT_SERVING")),
        Some(3) => Err(CheckError::NotServing("SERVICE_UNKNOWN")),
        Some(_) => Err(CheckError::NotServing("UNKNOWN")),
        None => Err(CheckError::Call("the answer is malformed".to_owned())),
    }
}

fn status(headers: &HeaderMap) -> Result<(), CheckError> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let message = text("grpc-message").unwrap_or_default();
    match text("grpc-status").as_deref() {
        None | Some("0") => Ok(()),
        Some("12") => Err(CheckError::Unimplemented(message)),
        Some(code) => Err(CheckError::Call(format!("rpc error: code = {code} desc = {message}"))),
    }
}

/// A flag (not compressed) and a length come before each message.
const FRAME: usize = 5;

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![0];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// `HealthCheckRequest`: the service's name is field 1, left out when empty.
fn encode(service: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !service.is_empty() {
        bytes.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            bytes.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).unwrap_or(0));
        bytes.extend_from_slice(service.as_bytes());
    }
    bytes
}

/// `HealthCheckResponse`: the status is field 1, a number; left out it's 0.
fn serving(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while let Some((tag, rest)) = message.split_first() {
        // Only numbers are expected, and only of one field.
        if *tag & 7 != 0 {
            return None;
        }
        let end = rest.iter().position(|byte| byte & 0x80 == 0)?;
        let number = rest[..=end]
            .iter()
            .rev()
            .try_fold(0_u64, |value, byte| value.checked_mul(128).map(|value| value | u64::from(byte & 0x7f)))?;
        if tag >> 3 == 1 {
            status = number;
        }
        message = &rest[end + 1..];
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// A health server that knows a few services.
    async fn serve() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    let (body, code) = match asked.get(FRAME + 2..).map(|name| String::from_utf8_lossy(name)).as_deref()
                    {
                        None => (framed(&[8, 1]), "0"),
                        Some("sick") => (framed(&[8, 2]), "0"),
                        Some("none") => (Vec::new(), "12"),
                        _ => (Vec::new(), "5"),
                    };
                    let trailers = [("grpc-status", code), ("grpc-message", "said")];
                    let trailers: HeaderMap =
                        trailers.into_iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
                    let frames = [Frame::data(Bytes::from(body)), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
                    Ok::<_, Infallible>(http::Response::new(StreamBody::new(futures::stream::iter(frames))))
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        port
    }

    #[tokio::test]
    async fn a_service_is_healthy_when_it_says_so() {
        let port = serve().await;
        let ask = |service: &'static str| check("127.0.0.1", port, service);
        assert_eq!(ask("").await, Ok(()));
        assert_eq!(ask("sick").await, Err(CheckError::NotServing("NOT_SERVING")));
        assert_eq!(ask("none").await, Err(CheckError::Unimplemented("said".to_owned())));
        assert_eq!(ask("odd").await, Err(CheckError::Call("rpc error: code = 5 desc = said".to_owned())));
        let refused = check("127.0.0.1", 1, "").await.unwrap_err().to_string();
        assert!(refused.contains("failed to connect") && refused.contains("connection refused"), "{refused}");
    }

    #[test]
    fn messages_are_as_protobuf_has_them() {
        assert_eq!(encode(""), Vec::<u8>::new());
        assert_eq!(encode("ab"), [0x0a, 2, b'a', b'b']);
        assert_eq!(encode(&"x".repeat(200))[..3], [0x0a, 0xc8, 1]);
        assert_eq!(serving(&[]), Some(0));
        assert_eq!(serving(&[8, 1]), Some(1));
        assert_eq!(serving(&[8, 0x81, 1]), Some(129));
        assert_eq!(serving(&[8]), None);
        assert_eq!(serving(&[0x0a, 0]), None);
    }
}
