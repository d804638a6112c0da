//! The servers of the proxy's own, for health probes and for metrics, and how those of another configuration take their
//! place. Not responsible for what they answer.

use std::net::SocketAddr;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::health::{ListenError, Server};
use crate::switch::Bench;

/// For health, and for metrics.
#[derive(Default)]
pub(crate) struct Servers([Option<Serving>; 2]);

/// What was served before.
#[derive(Default)]
pub(crate) struct Former([Was; 2]);

/// A server that can be exchanged.
struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Default)]
enum Was {
    /// The same as now.
    #[default]
    Same,
    Nowhere,
    There(Serving),
    /// Where the new one listens too, so it had to end first.
    InTheWay(SocketAddr),
}

impl Servers {
    pub async fn start(bench: &Bench, config: &Config) -> Result<Servers, ListenError> {
        let mut servers = Servers::default();
        servers.move_to(bench, config).await?;
        Ok(servers)
    }

    /// Serves where a configuration says. If that can't be, everything is served where it was.
    pub async fn move_to(&mut self, bench: &Bench, config: &Config) -> Result<Former, ListenError> {
        let wanted = [config.health_address, config.metrics_address];
        let now = self.addresses();
        let moves = |kind: &usize| now[*kind] != wanted[*kind];
        let taken: Vec<SocketAddr> = (0..wanted.len()).filter(moves).filter_map(|kind| wanted[kind]).collect();
        let mut former = Former::default();
        for kind in (0..wanted.len()).filter(moves) {
            former.0[kind] = match self.0[kind].take() {
                None => Was::Nowhere,
                Some(serving) if taken.iter().any(|address| overlap(*address, serving.address)) => {
                    let address = serving.address;
                    serving.end().await;
                    Was::InTheWay(address)
                }
                Some(serving) => Was::There(serving),
            };
        }
        for kind in (0..wanted.len()).filter(moves) {
            let Some(address) = wanted[kind] else { continue };
            match Serving::start(bench, kind, address, !config.bind_hard_fail).await {
                Ok(serving) => self.0[kind] = Some(serving),
                Err(error) => {
                    self.go_back(bench, former).await;
                    return Err(error);
                }
            }
        }
        Ok(former)
    }

    /// Serves what was served before where it was. Where somebody else has come since, it's tried until they go.
    pub async fn go_back(&mut self, bench: &Bench, former: Former) {
        for (serving, was) in self.0.iter_mut().zip(&former.0) {
            if !matches!(was, Was::Same)
                && let Some(serving) = serving.take()
            {
                serving.end().await;
            }
        }
        for (kind, was) in former.0.into_iter().enumerate() {
            match was {
                Was::Same | Was::Nowhere => {}
                Was::There(serving) => self.0[kind] = Some(serving),
                Was::InTheWay(address) => self.0[kind] = Serving::start(bench, kind, address, true).await.ok(),
            }
        }
    }

    pub async fn end(self) {
        for serving in self.0.into_iter().flatten() {
            serving.end().await;
        }
    }

    fn addresses(&self) -> [Option<SocketAddr>; 2] {
        self.0.each_ref().map(|serving| serving.as_ref().map(|serving| serving.address))
    }
}

impl Former {
    /// It isn't needed any more.
    pub async fn end(self) {
        for was in self.0 {
            if let Was::There(serving) = was {
                serving.end().await;
            }
        }
    }
}

impl Serving {
    async fn start(bench: &Bench, kind: usize, address: SocketAddr, patient: bool) -> Result<Serving, ListenError> {
        let server = match kind {
            0 => Server::Health(bench.status.clone()),
            _ => Server::Metrics(bench.status.clone(), bench.name.subscribe()),
        };
        let stop = bench.token.child_token();
        let task = tokio::spawn(server.start(address, patient, stop.clone()).await?);
        Ok(Serving { address, stop, task })
    }

    async fn end(self) {
        self.stop.cancel();
        // A server that panicked has ended too.
        let _ = self.task.await;
    }
}

/// Whether the kernel lets only one of two listen.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // `::` takes what comes to IPv4 addresses too.
    let covers = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip() == narrow.ip() || (wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4()))
    };
    one.port() == other.port() && (covers(one, other) || covers(other, one))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    use service_model::NodeView;
    use tokio::sync::watch;

    use super::*;
    use crate::status::Status;
    use crate::syncer::Shared;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    /// Another address of the loopback.
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    const ALL: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn bench() -> Bench {
        let (name, _) = watch::channel("names");
        Bench {
            shared: Shared::new(NodeView::named("here")),
            status: Status::default(),
            complain: Arc::new(|_, _| {}),
            token: CancellationToken::new(),
            name: Arc::new(name),
        }
    }

    fn config(health: Option<(Ipv4Addr, u16)>, metrics: Option<(Ipv4Addr, u16)>) -> Config {
        let [health_address, metrics_address] = [health, metrics].map(|at| at.map(SocketAddr::from));
        Config { health_address, metrics_address, ..Config::for_node("here") }
    }

    const PORTS: [u16; 2] = [10_256, 10_249];

    /// Where nobody else has any port.
    fn alone<F: Future<Output = ()>>(act: fn() -> F) {
        let namespace = netns::NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
        let run = || {
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            // Threads made here stay in the namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(act());
        };
        namespace.run(run).unwrap();
    }

    async fn answers(address: Ipv4Addr, port: u16, path: &'static str) -> bool {
        let ask = move || {
            let mut stream = TcpStream::connect((address, port))?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        let answer = tokio::task::spawn_blocking(ask).await.unwrap();
        answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
    }

    #[test]
    fn a_narrower_or_wider_address_of_the_same_port_is_handed_over() {
        alone(hand_over);
    }

    #[test]
    fn what_cannot_be_served_elsewhere_is_served_where_it_was() {
        alone(go_back);
    }

    async fn hand_over() {
        let (bench, [port, other]) = (bench(), PORTS);
        let mut servers = Servers::start(&bench, &config(Some((ALL, port)), Some((HERE, other)))).await.unwrap();
        assert!(answers(ELSEWHERE, port, "/livez").await && answers(HERE, other, "/metrics").await);
        servers.move_to(&bench, &config(Some((HERE, port)), Some((ALL, other)))).await.unwrap().end().await;
        assert!(answers(HERE, port, "/livez").await && !answers(ELSEWHERE, port, "/livez").await);
        assert!(answers(ELSEWHERE, other, "/metrics").await);
        // Each where the other was.
        servers.move_to(&bench, &config(Some((HERE, other)), Some((HERE, port)))).await.unwrap().end().await;
        assert!(answers(HERE, other, "/livez").await && answers(HERE, port, "/metrics").await);
        servers.end().await;
        assert!(!answers(HERE, other, "/livez").await);
    }

    async fn go_back() {
        let (bench, [port, other]) = (bench(), PORTS);
        let mut servers = Servers::start(&bench, &config(Some((ALL, port)), None)).await.unwrap();
        let stranger = TcpListener::bind((HERE, other)).unwrap();
        let taken = config(Some((HERE, port)), Some((HERE, other)));
        assert!(servers.move_to(&bench, &taken).await.is_err());
        assert!(answers(ELSEWHERE, port, "/livez").await, "also if it had to make way");
        drop(stranger);
        // What else can fail afterwards is taken back as well.
        let former = servers.move_to(&bench, &taken).await.unwrap();
        assert!(answers(HERE, other, "/metrics").await && !answers(ELSEWHERE, port, "/livez").await);
        servers.go_back(&bench, former).await;
        assert!(answers(ELSEWHERE, port, "/livez").await && !answers(HERE, other, "/metrics").await);
        servers.end().await;
    }

    #[test]
    fn addresses_overlap_as_the_kernel_sees_it() {
        let overlap = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!(super::overlap(one, other), super::overlap(other, one));
            super::overlap(one, other)
        };
        for other in ["127.0.0.1:1", "0.0.0.0:1", "[::]:1"] {
            assert!(overlap("0.0.0.0:1", other), "{other}");
        }
        assert!(overlap("[::]:1", "127.0.0.1:1") && overlap("[::]:1", "[::1]:1"));
        assert!(!overlap("0.0.0.0:1", "[::1]:1") && !overlap("0.0.0.0:1", "0.0.0.0:2"));
        assert!(!overlap("127.0.0.1:1", "127.0.0.2:1"));
    }
}
