//! The control plane in this process: store, API server with its listeners, controllers, and the relay to the host's
//! resolvers.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use apiserver::pki::{self, Pki, ServerNames};
use apiserver::{ApiServer, AsyncReadWrite, Config, NodeDialer};
use kube::Client;
use store::embedded::{Embedded, Options};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fabric::Fabric;
use super::network::Plan;
use super::relay::Relay;
use super::view::DOMAIN;
use crate::system::{DataDir, PortHolder, SocketPath};

/// Where the API listens in the fabric.
const PORT: u16 = 6443;
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What can be made before the fabric is there.
pub struct Prepared {
    server: ApiServer,
    pki: Pki,
}

/// Opens the store and the certificates, and puts in what every cluster begins with.
pub async fn prepare(dir: &DataDir, plan: &Plan) -> Result<Prepared> {
    let (database, certificates, advertise) = (dir.database(), dir.pki(), plan.fabric_address());
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let names = ServerNames {
        addresses: [vec![loopback], plan.fabric_addresses(), plan.hosts(), plan.first_services()].concat(),
        names: vec!["localhost".to_owned()],
        cluster_domain: DOMAIN.to_owned(),
    };
    let opening = tokio::task::spawn_blocking(move || -> Result<(Embedded, Pki)> {
        let store = Embedded::open(&database, Options::default());
        let store = store.with_context(|| format!("cannot open the objects in {}", database.display()))?;
        Ok((store, Pki::open(&certificates, &names).context("cannot open the certificates")?))
    });
    let (store, pki) = opening.await.context("opening the store")??;
    let config = Config {
        service_cidrs: plan.services(),
        node_port_range: NODE_PORTS,
        advertise: SocketAddr::new(advertise, PORT),
        cluster_domain: DOMAIN.to_owned(),
    };
    let dialer = Arc::new(Kubelets(dir.clone()));
    let server = ApiServer::new(Arc::new(store), config, dialer).context("cannot make the API server")?;
    server.bootstrap().await.map_err(|status| anyhow!("cannot put in the first objects: {}", status.message))?;
    Ok(Prepared { server, pki })
}

/// Takes the host's port of the API, or says who has it.
pub async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => error,
        Err(error) => return Err(error).with_context(|| format!("cannot serve the API on {address} (--api-port)")),
    };
    match PortHolder::find(port) {
        PortHolder::System { process, data_dir } => bail!(
            "the system on {} (process {process}) has {address}, where the API is to be served; end it with `portolan \
             down --data-dir {0}` or choose another port with --api-port",
            data_dir.display()
        ),
        PortHolder::Program { process, name } => bail!(
            "process {process} ({name}) has {address}, where the API is to be served; end it or choose another port with \
             --api-port"
        ),
        PortHolder::Unseen => Err(error).with_context(|| {
            format!(
                "cannot serve the API on {address}: somebody whom this process can't see has it; choose another port with \
                 --api-port"
            )
        }),
    }
}

/// The control plane, serving.
pub struct ControlPlane {
    client: Client,
    tasks: JoinSet<Result<()>>,
}

impl ControlPlane {
    /// Opens every other listener, then starts the controllers.
    pub async fn start(
        prepared: Prepared,
        host: TcpListener,
        dir: &DataDir,
        plan: &Plan,
        fabric: &Fabric,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let Prepared { server, pki } = prepared;
        let on_host = host.local_addr().context("the API's port")?;
        let in_fabric = SocketAddr::new(plan.fabric_address(), PORT);
        let pods = fabric.namespace().run(|| std::net::TcpListener::bind(in_fabric))?;
        let pods = pods.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let pods = pods.and_then(TcpListener::from_std).context("cannot serve the API in the fabric")?;
        let socket = SocketPath::new(&dir.api_socket()).context("the API's socket")?;
        let local = socket.listen().context("cannot serve the API on its socket")?;
        let relay = plan.resolver().map(|at| Relay::bind(fabric.namespace(), at)).transpose()?;

        let tls = apiserver::server_config(&pki).context("the API's certificate")?;
        let kubeconfig = pki.kubeconfig("portolan", &format!("https://{on_host}"));
        pki::write(&dir.kubeconfig(), &kubeconfig).context("cannot write the kubeconfig")?;
        dir.hand_over()?;

        let mut tasks = JoinSet::new();
        for listener in [host, pods] {
            let (server, tls, stop) = (server.clone(), tls.clone(), stop.clone());
            tasks.spawn(async move {
                server.serve_tls(listener, tls, stop).await;
                Ok(())
            });
        }
        let (serving, until) = (server.clone(), stop.clone());
        tasks.spawn(async move {
            serving.serve_unix(local, until).await;
            Ok(())
        });
        let (kept, until) = (server.clone(), stop.clone());
        tasks.spawn(async move {
            keep(&kept, &until).await;
            Ok(())
        });
        if let Some(relay) = relay {
            let until = stop.clone();
            tasks.spawn(async move {
                relay.run(until).await;
                Ok(())
            });
        }
        let client = Client::new(server.service(), "default");
        let config = controllers::Config {
            cluster_cidr_v4: Some(plan.pods_v4()),
            cluster_cidr_v6: plan.pods_v6(),
            root_ca: pki.ca().to_owned(),
            ..controllers::Config::default()
        };
        let run = controllers::run(client.clone(), config, stop.clone());
        tasks.spawn(async move { run.await.context("a controller ended") });
        Ok(ControlPlane { client, tasks })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until a part of it ends, which none should.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a part of the control plane panicked"),
            Some(Ok(Ok(()))) | None => anyhow!("a part of the control plane ended"),
        }
    }

    /// Waits for every part's end, after `stop` is cancelled.
    pub async fn end(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The first objects are put back when somebody deletes them.
async fn keep(server: &ApiServer, stop: &CancellationToken) {
    let mut turns = tokio::time::interval(super::KEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        if let Err(status) = server.bootstrap().await {
            tracing::warn!(error = status.message, "cannot put the first objects back");
        }
    }
}

/// Reaches a node's agent by the socket it listens on.
struct Kubelets(DataDir);

#[async_trait::async_trait]
impl NodeDialer for Kubelets {
    async fn dial(&self, node: &str) -> std::io::Result<Box<dyn AsyncReadWrite>> {
        let path: PathBuf = self.0.kubelet_dir(node).join(super::parts::KUBELET_SOCKET);
        let path = SocketPath::new(&path)?;
        Ok(Box::new(UnixStream::connect(path.as_path()).await?))
    }
}
