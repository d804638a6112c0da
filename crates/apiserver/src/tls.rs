//! Connections: TLS with client certificates, unix sockets whose peer is trusted, and their orderly end.
//!
//! Not responsible for certificates (`pki`), nor for requests (`serve`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::identity::Identity;
use crate::pki::Pki;
use crate::{ApiServer, ApiService};

/// A client that doesn't finish its handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long open requests may take to end once the server is stopping; watches end at once.
const DRAIN: Duration = Duration::from_secs(2);

/// An idle HTTP/1.1 connection is kept longer than clients keep theirs, so that they don't send into a closing one.
const IDLE: Duration = Duration::from_secs(180);

/// After a failed accept (out of file descriptors, say) the next one waits a moment.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Why TLS couldn't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading {what}")]
    Pem { what: &'static str, source: rustls::pki_types::pem::Error },
    #[error("{step}")]
    Config { step: &'static str, source: rustls::Error },
    #[error("choosing how clients are verified")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// What the TLS listener needs: the server's certificate, and the authority that clients' certificates must be from.
pub fn server_config(pki: &Pki) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = |what, pem: &str| {
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| TlsError::Pem { what, source })
    };
    let key = PrivateKeyDer::from_pem_slice(pki.server.key.as_bytes())
        .map_err(|source| TlsError::Pem { what: "the server's key", source })?;
    let authority = certificate("the authority", pki.ca())?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(|source| TlsError::Config { step: "trusting the authority", source })?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Verifier)?;
    let chain = vec![certificate("the server's certificate", &pki.server.certificate)?];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Config { step: "choosing protocol versions", source })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Config { step: "using the server's certificate", source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl ApiServer {
    /// Serves TLS until cancelled. Who has no client certificate is anonymous.
    pub async fn serve_tls(&self, listener: TcpListener, config: Arc<ServerConfig>, stop: CancellationToken) {
        let (acceptor, server) = (TlsAcceptor::from(config), self.clone());
        accept_until(listener, stop, move |stream, stop| {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            async move {
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let chain = stream.get_ref().1.peer_certificates();
                        let identity = chain.and_then(|c| c.first()).and_then(|c| Identity::of_certificate(c));
                        connection(stream, server.service_for(identity, stop.clone()), stop).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake took too long"),
                }
            }
        })
        .await;
    }

    /// Serves plain HTTP on a unix socket until cancelled: whoever may open the socket may do everything.
    pub async fn serve_unix(&self, listener: UnixListener, stop: CancellationToken) {
        let server = self.clone();
        accept_until(listener, stop, move |stream, stop| {
            connection(stream, server.service_for(Some(Identity::trusted()), stop.clone()), stop)
        })
        .await;
    }
}

/// Where connections come from.
trait Listener: Send + Sync + 'static {
    type Stream: Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Small answers are most answers.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

async fn accept_until<L, F>(
    listener: L,
    stop: CancellationToken,
    serve: impl Fn(L::Stream, CancellationToken) -> F + Send,
) where
    L: Listener,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.next() => match accepted {
                Ok(stream) => drop(connections.spawn(serve(stream, stop.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

/// One connection to its end.
async fn connection<S>(stream: S, service: ApiService, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30)).max_concurrent_streams(250);
    let mut serving =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service)));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
