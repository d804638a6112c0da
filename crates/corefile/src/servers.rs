//! Server blocks with their settings, and what listens where. Not responsible for listening.

use std::fmt::{Display, Formatter};

use serde::Serialize;

use crate::blocks::Block;
use crate::plugin::{self, Plugin};
use crate::problem::{Fault, Report};
use crate::reader::{Around, below};
use crate::stanza::quoted;
use crate::zone::{self, Key, Transport, Zone};
use crate::{Place, Sources};

/// A server block: what it serves, and by which plugins.
#[derive(Debug, Clone, Serialize)]
pub struct ServerBlock {
    /// The line of its first key.
    pub line: u32,
    pub keys: Vec<Key>,
    /// In the order in which they are asked.
    pub plugins: Vec<Plugin>,
}

impl PartialEq for ServerBlock {
    /// Without regard to where it stands.
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys && self.plugins == other.plugins
    }
}

/// An address and port, and the zones that are served there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    pub transport: Transport,
    /// An address or a device; all addresses if there is none.
    pub host: Option<String>,
    pub port: u16,
    pub zones: Vec<Served>,
}

/// A zone, and the number of the server block that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Served {
    pub zone: Zone,
    pub server: usize,
}

impl ServerBlock {
    /// The addresses and devices that it listens on; all addresses if there are none.
    pub fn hosts(&self) -> Vec<Option<String>> {
        let bound = self.plugins.iter().find_map(|plugin| match plugin {
            Plugin::Bind(bind) => Some(bind.hosts()),
            _ => None,
        });
        bound.map_or_else(|| vec![None], |hosts| hosts.into_iter().map(Some).collect())
    }

    /// Where a path of a plugin's settings leads: relative ones start from the folder that `root` names.
    pub fn path(&self, path: &str) -> String {
        let root = self.plugins.iter().find_map(|plugin| match plugin {
            Plugin::Root(root) => Some(root.path.as_str()),
            _ => None,
        });
        below(root, path)
    }
}

/// What listens, in the order of the file.
pub(crate) fn listeners(servers: &[ServerBlock]) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        for key in &server.keys {
            for host in server.hosts() {
                let served = Served { zone: key.zone.clone(), server: number };
                let same = |l: &&mut Listener| l.transport == key.transport && l.host == host && l.port == key.port;
                match listeners.iter_mut().find(same) {
                    Some(listener) => listener.zones.push(served),
                    None => {
                        listeners.push(Listener { transport: key.transport, host, port: key.port, zones: vec![served] })
                    }
                }
            }
        }
    }
    listeners
}

/// Gives keys and directives their meaning.
pub(crate) fn build(
    blocks: &[Block],
    sources: &dyn Sources,
    default_port: u16,
    report: &mut Report,
) -> Vec<ServerBlock> {
    let mut servers = Vec::new();
    let mut places = Vec::new();
    for block in blocks {
        let mut keys = Vec::new();
        for key in &block.keys {
            match zone::keys(&key.text, default_port) {
                Ok(found) => keys.extend(found.into_iter().map(|found| (found, key.place.clone()))),
                Err(fault) => report.problem(&key.place, fault),
            }
        }
        let zones: Vec<Zone> = keys.iter().map(|(key, _)| key.zone.clone()).collect();
        let plugins = plugins(block, &zones, sources, report);
        together(block, &keys, &plugins, report);
        let (keys, at): (Vec<Key>, Vec<Place>) = keys.into_iter().unzip();
        let line = block.keys.first().map_or(1, |key| key.place.line);
        servers.push(ServerBlock { line, keys, plugins });
        places.push(at);
    }
    overlaps(&servers, &places, report);
    servers
}

fn plugins(block: &Block, zones: &[Zone], sources: &dyn Sources, report: &mut Report) -> Vec<Plugin> {
    let mut root: Option<String> = None;
    let mut plugins = Vec::new();
    for (name, read) in plugin::supported() {
        let Some((_, tokens)) = block.directives.iter().find(|(known, _)| known == name) else { continue };
        let around = Around { zones, root: root.as_deref(), sources };
        let plugin = read(name, tokens, &around, report);
        if let Plugin::Root(folder) = &plugin {
            root = Some(folder.path.clone());
        }
        plugins.push(plugin);
    }
    plugins
}

/// What one plugin or key needs of another plugin of its block.
fn together(block: &Block, keys: &[(Key, Place)], plugins: &[Plugin], report: &mut Report) {
    let has = |name: &str| plugins.iter().any(|plugin| plugin.name() == name);
    let directive = block.directives.iter().find(|(name, _)| name == "k8s_external");
    if let Some((_, tokens)) = directive
        && !has("kubernetes")
        && let Some(token) = tokens.first()
    {
        let problem = "k8s_external takes Services from kubernetes, which isn't in this server block".to_owned();
        report.problem(&token.place, Fault::Together { problem, fix: "add kubernetes" });
    }
    if has("tls") {
        return;
    }
    for (key, place) in keys {
        let problem = format!("{key} is served without TLS: the plugin tls isn't in this server block");
        let fault = Fault::Together { problem, fix: "add tls with a certificate and its key" };
        match key.transport {
            Transport::Quic | Transport::Https3 => report.problem(place, fault),
            Transport::Tls | Transport::Https | Transport::Grpc => report.warning(place, fault),
            Transport::Dns | Transport::Unix => {}
        }
    }
}

/// No zone is served twice at the same place, nor at one address where it is served at all of them.
fn overlaps(servers: &[ServerBlock], places: &[Vec<Place>], report: &mut Report) {
    let mut served: Vec<(&Key, Option<String>, u32)> = Vec::new();
    for (server, places) in servers.iter().zip(places) {
        for (key, place) in server.keys.iter().zip(places) {
            for host in server.hosts() {
                let overlap = |other: &&(&Key, Option<String>, u32)| {
                    other.0 == key && (other.1 == host || other.1.is_none() || host.is_none())
                };
                if let Some((_, _, line)) = served.iter().find(overlap) {
                    let on = host.as_ref().map_or(String::new(), |host| format!(" on {host}"));
                    report.problem(place, Fault::Served { key: format!("{key}{on}"), line: *line });
                } else {
                    served.push((key, host, place.line));
                }
            }
        }
    }
}

impl crate::Corefile {
    /// What listens where, and which zones are served there.
    pub fn listeners(&self) -> Vec<Listener> {
        listeners(&self.servers)
    }
}

impl Display for ServerBlock {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(|key| quoted(&key.to_string())).collect();
        writeln!(f, "{} {{", keys.join(" "))?;
        for stanza in self.plugins.iter().flat_map(Plugin::stanzas) {
            write!(f, "{stanza}")?;
        }
        writeln!(f, "}}")
    }
}
