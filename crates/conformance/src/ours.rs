//! Our API server beside the original: in this process, in memory, with TLS and a kubeconfig for foreign clients.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use apiserver::pki::{Pki, ServerNames};
use apiserver::{ApiServer, AsyncReadWrite, Config, NodeDialer, server_config};
use async_trait::async_trait;
use store::{Embedded, Options, Store};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{ADDRESS, SERVICE_CIDR, originals};

const PORT: u16 = 7443;

/// A running server of ours. Ends when dropped.
pub struct Ours {
    server: ApiServer,
    store: Arc<dyn Store>,
    directory: PathBuf,
    _stop: DropGuard,
}

impl Ours {
    /// Starts one, with the objects that every cluster begins with.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).await.context("listening")?;
        Ours::start_at(listener, &[SERVICE_CIDR]).await
    }

    /// The same, served at a loopback address of whatever namespace the listener was made in.
    pub async fn start_at(listener: TcpListener, service_cidrs: &[&str]) -> Result<Self> {
        let address = listener.local_addr().context("listening")?;
        let (server, store) = server(service_cidrs).await?;
        let names = ServerNames { cluster_domain: "cluster.local".to_owned(), ..ServerNames::default() };
        let pki = Pki::in_memory(&names)?;
        let directory = std::env::temp_dir().join(format!("portolan-ours-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let kubeconfig = pki.kubeconfig("ours", &format!("https://{address}"));
        apiserver::pki::write(&directory.join("kubeconfig"), &kubeconfig)?;
        let stop = CancellationToken::new();
        let (serving, until, tls) = (server.clone(), stop.clone(), server_config(&pki)?);
        tokio::spawn(async move { serving.serve_tls(listener, tls, until).await });
        Ok(Ours { server, store, directory, _stop: stop.drop_guard() })
    }

    /// A client of one that isn't served to anybody else.
    pub async fn in_process() -> Result<kube::Client> {
        Ok(kube::Client::new(server(&[SERVICE_CIDR]).await?.0.service(), "default"))
    }

    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Forgets every state but the present one.
    pub async fn compact(&self) -> Result<()> {
        Ok(self.store.compact(self.store.revision().await?).await?)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A client over TLS, as the original's are.
    pub async fn client(&self) -> Result<kube::Client> {
        originals::client(&self.kubeconfig()).await
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // What is left of a directory for temporary files hurts nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

async fn server(service_cidrs: &[&str]) -> Result<(ApiServer, Arc<dyn Store>)> {
    let config = Config {
        service_cidrs: service_cidrs.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?,
        node_port_range: 30000..=32767,
        // What the original's default/kubernetes says.
        advertise: SocketAddr::from((ADDRESS, 6443)),
        cluster_domain: "cluster.local".to_owned(),
    };
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(Options::default()).context("opening the store")?);
    let server = ApiServer::new(store.clone(), config, Arc::new(NoNodes))?;
    server.bootstrap().await.map_err(|status| anyhow!("the first objects: {}", status.message))?;
    Ok((server, store))
}

/// A cluster without nodes.
struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no node {node}")))
    }
}
