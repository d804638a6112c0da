//! A way from a client's pod to a server's pod on another node, through the client's node: three network namespaces, of
//! which the middle one has the rules or the proxy that are measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netns::{LinkName, Links, NetNs};
use tokio::runtime::Runtime;

use super::load::{self, Places, Server};
use crate::lab::{self, run};
use crate::process::Process;

/// Where the server listens on each address of its namespace.
pub const SERVER_PORT: u16 = 8080;
/// One of the Node's pods, by its `podCIDR`.
const CLIENT: &str = "10.244.1.2";
/// All of them are the server's.
const SERVERS: &str = "10.244.2.0/24";

pub struct Way {
    pub name: String,
    client: NetNs,
    pub node: NetNs,
    places: Places,
    /// What carries packets, or only programs the kernel to.
    pub proxy: Option<Process>,
    /// Its processor time belongs to the connections: it carries their bytes.
    pub relays: bool,
    // Before the namespaces it is in.
    _server: Server,
}

/// Addresses of the server that stand for endpoints.
pub fn endpoints(numbers: RangeInclusive<u8>) -> Vec<String> {
    numbers.map(|number| format!("10.244.2.{number}")).collect()
}

impl Way {
    pub fn new(name: impl Into<String>, threads: &Runtime, places: Places) -> Result<Way> {
        let [client, node, server] = [lab::namespace()?, lab::namespace()?, lab::namespace()?];
        threads.block_on(async {
            link(&node, "pod", &client).await?;
            link(&node, "far", &server).await
        })?;
        let on = |namespace: &NetNs, words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            run(namespace, &words).map(drop)
        };
        on(&client, &format!("ip address add {CLIENT}/24 dev eth0"))?;
        on(&node, "ip address add 10.244.1.1/24 dev pod")?;
        on(&client, "ip route add default via 10.244.1.1")?;
        on(&node, "ip address add 192.168.9.1/30 dev far")?;
        on(&server, "ip address add 192.168.9.2/30 dev eth0")?;
        on(&server, "ip route add default via 192.168.9.1")?;
        on(&server, &format!("ip route add local {SERVERS} dev lo"))?;
        on(&node, &format!("ip route add {SERVERS} via 192.168.9.2"))?;
        netns::sysctl::set(&node, "net.ipv4.ip_forward", "1")?;
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT));
        let server = Server::start(&server, listen, places)?;
        Ok(Way { name: name.into(), client, node, places, proxy: None, relays: false, _server: server })
    }

    /// What carries the bytes of its connections besides the kernel.
    pub fn between(&self) -> Option<u32> {
        self.proxy.as_ref().filter(|_| self.relays).map(Process::pid)
    }

    /// Does something as the client.
    pub fn as_client<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.client.run(|| load::as_client(self.places, work))?.with_context(|| format!("on the way {:?}", self.name))
    }

    /// Waits until a target answers.
    pub fn wait(&mut self, target: SocketAddr, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.client.run(|| load::once(target))?.is_err() {
            if let Some(proxy) = &mut self.proxy {
                proxy.check()?;
            }
            if begun.elapsed() > limit {
                bail!("{}: {target} doesn't answer within {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// A link of the node to `eth0` of another namespace, both up.
async fn link(node: &NetNs, name: &str, other: &NetNs) -> Result<()> {
    let (here, there) = (LinkName::new(name)?, LinkName::new("eth0")?);
    let links = Links::of(node)?;
    links.add_veth(&here, &there, other).await?;
    links.up(&here).await?;
    Links::of(other)?.up(&there).await?;
    Ok(())
}
