//! Where the images of a host are asked for: its mirrors in their order, then the host itself.
//!
//! Not responsible for speaking to any of them.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::Uri;

use super::transport::{Peer, is_loopback};
use crate::reference::Reference;

/// Docker's names and its registry are at different places.
const DOCKER_HOST: &str = "docker.io";
const DOCKER_REGISTRY: &str = "registry-1.docker.io";

/// A place that has, or copies, the images of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without a slash at its end.
    pub(crate) base: String,
    /// The host it stands in for, when it is a mirror: containerd's way to tell a mirror of several hosts which is meant.
    pub(crate) stands_for: Option<String>,
}

/// `HOST=URL`: images of HOST are asked for at URL first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    host: String,
    base: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    #[error(
        "a mirror is HOST=URL, such as docker.io=https://mirror.example or registry.example:5000=http://10.0.0.7:5000"
    )]
    Form,
    #[error("{0:?} is no registry's host")]
    Host(String),
    #[error("{0:?} is no http:// or https:// address without a query")]
    Url(String),
}

/// All mirrors, by host; `*` stands for every host without one of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mirrors(BTreeMap<String, Vec<String>>);

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let (host, base) = text.split_once('=').ok_or(MirrorError::Form)?;
        let host = if host == DOCKER_REGISTRY || host == "index.docker.io" { DOCKER_HOST } else { host };
        let names_a_host = |reference: Reference| reference.host() == host;
        let known = host == "*" || format!("{host}/image").parse().is_ok_and(names_a_host);
        if !known {
            return Err(MirrorError::Host(host.to_owned()));
        }
        let usable = |uri: &Uri| Peer::of(uri).is_ok() && uri.query().is_none();
        base.parse().ok().filter(usable).ok_or_else(|| MirrorError::Url(base.to_owned()))?;
        Ok(Self { host: host.to_owned(), base: base.trim_end_matches('/').to_owned() })
    }
}

impl Mirrors {
    pub(crate) fn new(mirrors: &[Mirror]) -> Self {
        let mut by_host = BTreeMap::<String, Vec<String>>::new();
        for mirror in mirrors {
            by_host.entry(mirror.host.clone()).or_default().push(mirror.base.clone());
        }
        Self(by_host)
    }

    /// The host's mirrors in their order, and the host itself, which is asked last.
    pub(crate) fn endpoints(&self, host: &str) -> (Vec<Endpoint>, Endpoint) {
        let bases = self.0.get(host).or_else(|| self.0.get("*")).into_iter().flatten();
        let mut own = Endpoint { base: own_base(host), stands_for: None };
        let mut mirrors = Vec::new();
        for base in bases {
            // Naming the host itself is how plain HTTP (or TLS on loopback) is asked for.
            if base.split("://").nth(1) == own.base.split("://").nth(1) {
                own.base.clone_from(base);
            } else {
                mirrors.push(Endpoint { base: base.clone(), stands_for: Some(host.to_owned()) });
            }
        }
        (mirrors, own)
    }
}

impl Endpoint {
    /// `kind` is `manifests` or `blobs`.
    pub(crate) fn url(&self, repository: &str, kind: &str, what: &str) -> String {
        let ns = self.stands_for.as_deref().map(|host| format!("?ns={host}")).unwrap_or_default();
        format!("{}/v2/{repository}/{kind}/{what}{ns}", self.base)
    }
}

/// TLS everywhere but on this very machine, where test registries are.
fn own_base(host: &str) -> String {
    let name = host.split(':').next().unwrap_or_default();
    let host = if host == DOCKER_HOST { DOCKER_REGISTRY } else { host };
    let scheme = if is_loopback(name) { "http" } else { "https" };
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(mirrors: &[&str], host: &str) -> Vec<String> {
        let mirrors: Vec<Mirror> = mirrors.iter().map(|text| text.parse().unwrap()).collect();
        let (mirrors, own) = Mirrors::new(&mirrors).endpoints(host);
        mirrors.into_iter().chain([own]).map(|endpoint| endpoint.base).collect()
    }

    #[test]
    fn mirrors_come_first_and_the_host_itself_last() {
        assert_eq!(bases(&[], "docker.io"), ["https://registry-1.docker.io"]);
        assert_eq!(bases(&[], "localhost:5000"), ["http://localhost:5000"]);
        assert_eq!(bases(&[], "127.0.0.1:5000"), ["http://127.0.0.1:5000"]);
        let two = ["docker.io=https://a.example/", "docker.io=http://b.example:5000/cache", "*=https://all.example"];
        let expected = ["https://a.example", "http://b.example:5000/cache", "https://registry-1.docker.io"];
        assert_eq!(bases(&two, "docker.io"), expected);
        assert_eq!(bases(&two, "quay.io"), ["https://all.example", "https://quay.io"]);
        assert_eq!(bases(&["my.example:5000=http://my.example:5000"], "my.example:5000"), ["http://my.example:5000"]);
        let mirror = &Mirrors::new(&["docker.io=http://m".parse().unwrap()]).endpoints("docker.io").0[0];
        assert_eq!(mirror.url("library/a", "manifests", "1"), "http://m/v2/library/a/manifests/1?ns=docker.io");
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for bad in ["docker.io", "=http://a", "a b=http://a", "docker.io=ftp://a", "docker.io=a", "UP/x=http://a"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
