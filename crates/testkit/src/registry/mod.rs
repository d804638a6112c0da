//! A registry on loopback: the pulling half of the OCI distribution specification, with every way to ask for credentials
//! and every way to go wrong that a test wants.
//!
//! It keeps everything in memory. Not responsible for pushing over the network.

mod image;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

pub use image::{Layer, Packed, Packing, architecture, descriptor, digest};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What a registry asks for before it answers.
#[derive(Clone, Debug, Default)]
pub enum Access {
    #[default]
    Anyone,
    Basic {
        user: String,
        password: String,
    },
    /// A token of its token service, which gives one to anyone, or to this user only.
    Token {
        user: Option<(String, String)>,
    },
    /// A token of its token service, which gives one for this identity token (RFC 6749, 6).
    Identity {
        token: String,
    },
}

/// A way to go wrong, once; several for one thing happen in turn.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// Another answer than asked for, perhaps with Retry-After.
    Status(u16, Option<u64>),
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// A byte of the body is another one.
    Corrupt,
    /// The second half of the body comes only after `release`.
    Hold,
    /// The answer is elsewhere.
    Redirect(String),
}

/// A registry that runs until it's dropped.
pub struct Registry {
    address: SocketAddr,
    state: Arc<State>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    /// Where its token service is.
    tokens: String,
    shared: Mutex<Shared>,
    released: watch::Sender<bool>,
}

#[derive(Default)]
struct Shared {
    access: Access,
    blobs: HashMap<String, Bytes>,
    /// By repository and tag or digest: media type and content.
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    mishaps: HashMap<String, Vec<Mishap>>,
    requests: Vec<String>,
}

impl Registry {
    /// On a port of 127.0.0.1 of this network.
    pub fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port of loopback"))
    }

    /// On a listener that may be of another network.
    pub fn on(listener: TcpListener) -> Self {
        let tokens = format!("http://{}/token", listener.local_addr().expect("a bound listener"));
        Self::serving(listener, None, tokens)
    }

    /// With TLS, as one of these names, the first of which leads to it at port 443; and the certificate (PEM) of the authority that vouches for it.
    pub fn start_tls(names: &[&str]) -> (Self, String) {
        let (acceptor, authority) = tls::acceptor(names);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        (Self::serving(listener, Some(acceptor), format!("https://{}/token", names[0])), authority)
    }

    fn serving(listener: TcpListener, tls: Option<TlsAcceptor>, tokens: String) -> Self {
        let address = listener.local_addr().expect("a bound listener");
        listener.set_nonblocking(true).expect("a listener");
        let state = Arc::new(State { tokens, shared: Mutex::default(), released: watch::Sender::new(false) });
        let (end, ended) = oneshot::channel();
        let serving = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, tls, serving) => {}
                    _ = ended => {}
                }
            });
        });
        Registry { address, state, end: Some(end), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the first part of an image's name.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn require(&self, access: Access) {
        self.state.lock().access = access;
    }

    /// Keeps an image under a tag, and gives its manifest's digest.
    pub fn push(&self, repository: &str, tag: &str, image: &Packed) -> String {
        for blob in image.layers.iter().chain([&image.config]) {
            self.put_blob(blob);
        }
        self.put_manifest(repository, tag, "application/vnd.oci.image.manifest.v1+json", &image.manifest)
    }

    pub fn put_blob(&self, content: &[u8]) -> String {
        let digest = digest(content);
        self.state.lock().blobs.insert(digest.clone(), Bytes::copy_from_slice(content));
        digest
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, content: &[u8]) -> String {
        let digest = digest(content);
        let mut shared = self.state.lock();
        for name in [tag, &digest] {
            let kept = (media_type.to_owned(), Bytes::copy_from_slice(content));
            shared.manifests.insert((repository.to_owned(), name.to_owned()), kept);
        }
        digest
    }

    /// The next answers for this tag or digest go wrong, in this order.
    pub fn go_wrong(&self, what: &str, mishaps: &[Mishap]) {
        self.state.lock().mishaps.insert(what.to_owned(), mishaps.to_vec());
    }

    /// Lets the answers that are held go on, now and later.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// What was asked so far: `GET PATH[?QUERY] [Range] [scheme of Authorization]`.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.contains(part)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        let uri = request.uri();
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (range, authorization) = (header(RANGE), header(AUTHORIZATION));
        let scheme = authorization.as_deref().and_then(|text| text.split(' ').next().map(str::to_owned));
        let words = [Some(format!("{} {uri}", request.method())), range.clone(), scheme];
        let mut shared = self.lock();
        shared.requests.push(words.into_iter().flatten().collect::<Vec<_>>().join(" "));
        if uri.path() == "/token" {
            return token(&shared.access, authorization.as_deref(), request.body());
        }
        if let Some(challenge) = self.challenge(&shared.access, authorization.as_deref()) {
            let answer = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
            return with(answer, WWW_AUTHENTICATE, &challenge);
        }
        let path = uri.path().trim_start_matches("/v2/");
        let (kind, repository, what) = match (path.split_once("/manifests/"), path.split_once("/blobs/")) {
            (Some((repository, what)), _) => ("manifests", repository, what),
            (_, Some((repository, what))) => ("blobs", repository, what),
            _ => return refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        };
        let found = match kind {
            "manifests" => shared.manifests.get(&(repository.to_owned(), what.to_owned())).cloned(),
            _ => shared.blobs.get(what).map(|blob| ("application/octet-stream".to_owned(), blob.clone())),
        };
        let Some((media_type, content)) = found else { return refuse(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN") };
        let mishap =
            shared.mishaps.get_mut(what).filter(|mishaps| !mishaps.is_empty()).map(|mishaps| mishaps.remove(0));
        let answer = self.content(content, range.as_deref(), mishap);
        with(answer, CONTENT_TYPE, &media_type)
    }

    fn challenge(&self, access: &Access, authorization: Option<&str>) -> Option<String> {
        match access {
            Access::Anyone => None,
            Access::Basic { user, password } => {
                let right = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                (authorization != Some(&right)).then(|| "Basic realm=\"test\"".to_owned())
            }
            Access::Token { .. } | Access::Identity { .. } => (authorization != Some("Bearer good"))
                .then(|| format!("Bearer realm=\"{}\",service=\"test\",scope=\"repository:any:pull\"", self.tokens)),
        }
    }

    fn content(&self, content: Bytes, range: Option<&str>, mishap: Option<Mishap>) -> Response<Body> {
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let (status, mut body) = match from {
            Some(from) if from < content.len() => (StatusCode::PARTIAL_CONTENT, content.slice(from..)),
            Some(_) => return refuse(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
            None => (StatusCode::OK, content.clone()),
        };
        let whole = body.len();
        let mut rest = Rest::Nothing;
        match mishap {
            None => {}
            Some(Mishap::Status(status, retry_after)) => {
                let answer = refuse(StatusCode::from_u16(status).expect("a status"), "TROUBLE");
                return match retry_after {
                    Some(seconds) => with(answer, http::header::RETRY_AFTER, &seconds.to_string()),
                    None => answer,
                };
            }
            Some(Mishap::Redirect(to)) => {
                return with(refuse(StatusCode::TEMPORARY_REDIRECT, "ELSEWHERE"), LOCATION, &to);
            }
            Some(Mishap::Cut(length)) => {
                body.truncate(length);
                rest = Rest::Broken;
            }
            Some(Mishap::Corrupt) => {
                let mut bytes = body.to_vec();
                bytes[whole / 2] ^= 1;
                body = bytes.into();
            }
            Some(Mishap::Hold) => rest = Rest::Held(body.split_off(whole / 2), self.released.subscribe()),
        }
        let answer = Response::builder().status(status).header(CONTENT_LENGTH, whole);
        let answer = match from {
            Some(from) => answer.header(CONTENT_RANGE, format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
            None => answer,
        };
        answer.body(rest.after(body)).expect("a response")
    }
}

/// What follows the first part of a body.
enum Rest {
    Nothing,
    Broken,
    Held(Bytes, watch::Receiver<bool>),
}

impl Rest {
    fn after(self, first: Bytes) -> Body {
        let first = stream::iter([Ok(Frame::data(first))]);
        match self {
            Rest::Nothing => StreamBody::new(first).boxed_unsync(),
            Rest::Broken => {
                let broken = stream::once(async {
                    // What came before is sent while the body has nothing to offer.
                    tokio::task::yield_now().await;
                    Err(std::io::ErrorKind::ConnectionReset.into())
                });
                StreamBody::new(Box::pin(first.chain(broken))).boxed_unsync()
            }
            Rest::Held(second, mut released) => {
                let second = stream::once(async move {
                    // The registry's end releases as well.
                    let _ = released.wait_for(|released| *released).await;
                    Ok(Frame::data(second))
                });
                StreamBody::new(Box::pin(first.chain(second))).boxed_unsync()
            }
        }
    }
}

fn token(access: &Access, authorization: Option<&str>, form: &[u8]) -> Response<Body> {
    let user = match access {
        Access::Token { user } => user,
        Access::Identity { token } => return exchanged(token, form),
        _ => return refuse(StatusCode::NOT_FOUND, "NO_TOKENS"),
    };
    let right = user.as_ref().map(|(user, password)| STANDARD.encode(format!("{user}:{password}")));
    let shown = authorization.and_then(|text| text.strip_prefix("Basic "));
    if right.is_some() && right.as_deref() != shown {
        return refuse(StatusCode::UNAUTHORIZED, "DENIED");
    }
    words(StatusCode::OK, &json!({"token": "good"}).to_string())
}

/// An access token for an identity token, in a form as RFC 6749 has it.
fn exchanged(right: &str, form: &[u8]) -> Response<Body> {
    let form = String::from_utf8_lossy(form);
    let word = |name: &str| form.split('&').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    if word("grant_type") != Some("refresh_token") || word("service") != Some("test") || word("client_id").is_none() {
        return refuse(StatusCode::BAD_REQUEST, "UNSUPPORTED");
    }
    if word("refresh_token") != Some(right) {
        return refuse(StatusCode::UNAUTHORIZED, "DENIED");
    }
    words(StatusCode::OK, &json!({"access_token": "good"}).to_string())
}

fn refuse(status: StatusCode, code: &str) -> Response<Body> {
    words(status, &json!({"errors": [{"code": code, "message": "as the test wants"}]}).to_string())
}

fn words(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never: Infallible| match never {});
    Response::builder().status(status).body(body.boxed_unsync()).expect("a response")
}

fn with(mut answer: Response<Body>, name: http::HeaderName, value: &str) -> Response<Body> {
    answer.headers_mut().insert(name, value.parse().expect("a header's value"));
    answer
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (state, tls) = (state.clone(), tls.clone());
        // Ends with the runtime, which ends with the registry.
        tokio::spawn(async move {
            let Some(tls) = tls else { return converse(stream, state).await };
            // A client that doesn't trust us goes away.
            if let Ok(stream) = tls.accept(stream).await {
                converse(stream, state).await;
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, state: Arc<State>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let state = state.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(state.answer(&Request::from_parts(head, body)))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
