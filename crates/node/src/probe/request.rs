//! One request of a probe or a lifecycle hook.
//!
//! HTTP answers from 200 to 399 are good. TLS certificates are not verified, as upstream.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, TCPSocketAction};
use pod_runtime::{ContainerId, PodRuntime, RuntimeError};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::grpc;
use super::place::Place;
use crate::pod::spec::resolve_port;

/// How a request went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// Good, but worth a word.
    Warned(String),
    Bad(String),
    /// It could not be made: says nothing about the container.
    Error(String),
}

/// What to ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Http { tls: bool, host: String, port: u16, path: String, headers: Vec<(String, String)> },
    Tcp { host: String, port: u16 },
    Exec { command: Vec<String> },
    Grpc { host: String, port: u16, service: String },
}

impl Target {
    /// None when the port's name isn't one of the container's.
    pub fn http(action: &HTTPGetAction, container: &Container, pod_ip: Option<IpAddr>) -> Option<Self> {
        let header = |header: &HTTPHeader| (header.name.clone(), header.value.clone());
        let path = action.path.clone().unwrap_or_default();
        Some(Target::Http {
            tls: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: host(action.host.as_deref(), pod_ip)?,
            port: resolve_port(container, &action.port)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: action.http_headers.iter().flatten().map(header).collect(),
        })
    }

    pub fn tcp(action: &TCPSocketAction, container: &Container, pod_ip: Option<IpAddr>) -> Option<Self> {
        let port = resolve_port(container, &action.port)?;
        Some(Target::Tcp { host: host(action.host.as_deref(), pod_ip)?, port })
    }

    pub fn grpc(action: &GRPCAction, pod_ip: Option<IpAddr>) -> Option<Self> {
        let port = u16::try_from(action.port).ok().filter(|port| *port != 0)?;
        let service = action.service.clone().unwrap_or_default();
        Some(Target::Grpc { host: host(None, pod_ip)?, port, service })
    }

    pub fn exec(action: &ExecAction) -> Self {
        Target::Exec { command: action.command.clone().unwrap_or_default() }
    }
}

fn host(named: Option<&str>, pod_ip: Option<IpAddr>) -> Option<String> {
    named.filter(|host| !host.is_empty()).map(str::to_owned).or_else(|| pod_ip.map(|ip| ip.to_string()))
}

/// Makes the request. Runs in the namespace of the calling process: the node's.
pub async fn run(runtime: &dyn PodRuntime, id: &ContainerId, target: &Target, timeout: Duration) -> Outcome {
    match target {
        Target::Exec { command } => exec(runtime, id, command, timeout).await,
        Target::Grpc { host, port, service } => {
            match tokio::time::timeout(timeout, grpc::check(host, *port, service)).await {
                Ok(Ok(())) => Outcome::Good,
                Ok(Err(error)) => Outcome::Bad(error.to_string()),
                Err(_) => Outcome::Bad(format!("timeout: health rpc did not complete within {timeout:?}")),
            }
        }
        Target::Tcp { host, port } => match tokio::time::timeout(timeout, connect(host, *port)).await {
            Ok(Ok(_)) => Outcome::Good,
            Ok(Err(error)) => Outcome::Bad(error),
            Err(_) => Outcome::Bad(format!("dial tcp {}: i/o timeout", authority(host, *port))),
        },
        Target::Http { tls, host, port, path, headers } => {
            let mut place = Place { tls: *tls, host: host.clone(), port: *port, path: path.clone() };
            match tokio::time::timeout(timeout, get_following(&mut place, headers)).await {
                Ok(Ok(answer)) if (200..300).contains(&answer.status) => Outcome::Good,
                Ok(Ok(answer)) if (300..400).contains(&answer.status) => {
                    Outcome::Warned(format!("Probe terminated redirects, Response body: {}", answer.body))
                }
                Ok(Ok(answer)) => Outcome::Bad(format!("HTTP probe failed with statuscode: {}", answer.status)),
                Ok(Err(error)) => Outcome::Bad(format!("Get {:?}: {error}", place.url())),
                Err(_) => {
                    Outcome::Bad(format!("Get {:?}: context deadline exceeded while awaiting headers", place.url()))
                }
            }
        }
    }
}

async fn exec(runtime: &dyn PodRuntime, id: &ContainerId, command: &[String], timeout: Duration) -> Outcome {
    match runtime.exec(id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => Outcome::Good,
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            let cut = text.char_indices().nth(1024).map_or(text.len(), |(at, _)| at);
            text.truncate(cut);
            let text = text.trim_end();
            Outcome::Bad(if text.is_empty() {
                format!("command {command:?} exited with {}", output.exit_code)
            } else {
                text.to_owned()
            })
        }
        Err(error @ RuntimeError::ExecTimeout(_)) => Outcome::Bad(error.to_string()),
        Err(error) => Outcome::Error(error.to_string()),
    }
}

pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| {
        let what = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            _ => format!("connect: {error}"),
        };
        format!("dial tcp {}: {what}", authority(host, port))
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    TcpStream::connect((host, port)).await.map_err(failed)
}

/// Follows redirects as kubelet does: on the same host, up to ten; one that leads elsewhere is the answer. `place` is
/// where it came to.
async fn get_following(place: &mut Place, headers: &[(String, String)]) -> Result<Answer, String> {
    const MOST: usize = 10;
    for _ in 0..=MOST {
        let answer = get(place, headers).await?;
        let followed = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
        let Some(location) = answer.location.as_ref().filter(|_| followed) else { return Ok(answer) };
        let next = place.redirected(location)?;
        if !next.host.eq_ignore_ascii_case(&place.host) {
            return Ok(answer);
        }
        *place = next;
    }
    Err(format!("stopped after {MOST} redirects"))
}

async fn get(place: &Place, headers: &[(String, String)]) -> Result<Answer, String> {
    let stream = connect(&place.host, place.port).await?;
    let request = request(&place.host, place.port, &place.path, headers)?;
    if !place.tls {
        return send(stream, request).await;
    }
    let connector = tokio_rustls::TlsConnector::from(Arc::new(unverified()?));
    let name = ServerName::try_from(place.host.clone()).map_err(|error| error.to_string())?;
    send(connector.connect(name, stream).await.map_err(|error| error.to_string())?, request).await
}

type Request = http::Request<Empty<&'static [u8]>>;

fn request(host: &str, port: u16, path: &str, headers: &[(String, String)]) -> Result<Request, String> {
    let named = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let mut builder = http::Request::get(path);
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        builder = builder.header(name.as_str(), value.as_str());
    }
    // An empty value of these takes the header out.
    for (name, value) in [("host", authority(host, port)), ("user-agent", "kube-probe/1.36".to_owned())] {
        if !named(name) {
            builder = builder.header(name, value);
        }
    }
    if !named("accept") {
        builder = builder.header("accept", "*/*");
    }
    builder.header("connection", "close").body(Empty::new()).map_err(|error| error.to_string())
}

/// What of an answer matters.
struct Answer {
    status: u16,
    location: Option<String>,
    /// Of a redirect: what is shown of it.
    body: String,
}

async fn answer_of(response: http::Response<hyper::body::Incoming>) -> Answer {
    /// kubelet's.
    const LONGEST: usize = 10 << 10;
    let (head, mut body) = response.into_parts();
    let location = head.headers.get(http::header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    while head.status.is_redirection() && bytes.len() < LONGEST {
        // What is lost of it only shortens a message.
        let Some(Ok(frame)) = body.frame().await else { break };
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data.as_ref()));
    }
    bytes.truncate(LONGEST);
    Answer { status: head.status.as_u16(), location, body: String::from_utf8_lossy(&bytes).into_owned() }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request,
) -> Result<Answer, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let answer = async { Ok::<_, hyper::Error>(answer_of(sender.send_request(request).await?).await) };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer.map_err(|error| error.to_string()),
        ended = &mut connection => match ended {
            // The answer may have arrived with the end.
            Ok(()) => answer.await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn unverified() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth();
    Ok(config)
}

/// Takes any certificate: a probe asks whether something answers, not who.
#[derive(Debug)]
struct Unverified(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeRuntime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn ask(target: Target) -> Outcome {
        let runtime = FakeRuntime::new();
        run(&*runtime, &ContainerId("c".into()), &target, Duration::from_secs(5)).await
    }

    fn http(port: u16, path: &str) -> Target {
        let headers = vec![("X-Test".to_owned(), "yes".to_owned())];
        Target::Http { tls: false, host: "127.0.0.1".into(), port, path: path.into(), headers }
    }

    /// Answers one request with a status line and gives back what was asked.
    async fn answering(status: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&buffer[..read]).into_owned()
        });
        (port, task)
    }

    #[tokio::test]
    async fn answers_from_200_to_399_are_good() {
        for (status, expected) in [("200 OK", true), ("204 None", true), ("404 Not Found", false), ("500 Oh", false)] {
            let (port, asked) = answering(status).await;
            let outcome = ask(http(port, "/healthz?x=1")).await;
            assert_eq!(outcome == Outcome::Good, expected, "{status}: {outcome:?}");
            let asked = asked.await.unwrap();
            assert!(asked.starts_with("GET /healthz?x=1 HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("user-agent: kube-probe/") && asked.contains("x-test: yes"), "{asked}");
        }
    }

    /// Answers requests in turn, by path, and says how many there were.
    async fn redirecting(answers: &'static [(&'static str, &'static str)]) -> (u16, tokio::task::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            for (index, (path, answer)) in answers.iter().enumerate() {
                let accepted = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await;
                let Ok(Ok((mut stream, _))) = accepted else { return index };
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
                assert!(asked.starts_with(&format!("GET {path} ")), "{asked}");
                let answer = answer.replace("PORT", &port.to_string());
                stream.write_all(format!("HTTP/1.1 {answer}content-length: 4\r\n\r\nbody").as_bytes()).await.unwrap();
            }
            answers.len()
        });
        (port, task)
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_and_no_further() {
        let (port, asked) = redirecting(&[
            ("/", "302 Found\r\nlocation: /ready?a=b\r\n"),
            ("/ready?a=b", "307 Again\r\nlocation: http://127.0.0.1:PORT/end\r\n"),
            ("/end", "500 Broken\r\n"),
        ])
        .await;
        let broken = Outcome::Bad("HTTP probe failed with statuscode: 500".to_owned());
        assert_eq!(ask(http(port, "/")).await, broken);
        assert_eq!(asked.await.unwrap(), 3);
        let (port, _) = redirecting(&[("/", "301 Moved\r\nlocation: http://192.0.2.1/login\r\n")]).await;
        let warned = Outcome::Warned("Probe terminated redirects, Response body: body".to_owned());
        assert_eq!(ask(http(port, "/")).await, warned);
        let (port, _) = redirecting(&[("/", "302 Found\r\n")]).await;
        assert_eq!(ask(http(port, "/")).await, warned, "it leads nowhere");
        let (port, asked) = redirecting(&[("/", "302 Found\r\nlocation: /\r\n"); 12]).await;
        let endless = format!("Get \"http://127.0.0.1:{port}/\": stopped after 10 redirects");
        assert_eq!(ask(http(port, "/")).await, Outcome::Bad(endless));
        assert_eq!(asked.await.unwrap(), 11);
    }

    #[tokio::test]
    async fn nobody_listening_is_bad_and_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(Target::Tcp { host: "127.0.0.1".into(), port }).await, Outcome::Good);
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(ask(Target::Tcp { host: "127.0.0.1".into(), port }).await, Outcome::Bad(refused.clone()));
        let expected = format!("Get \"http://127.0.0.1:{port}/\": {refused}");
        assert_eq!(ask(http(port, "/")).await, Outcome::Bad(expected));
    }
}
