//! What is served and how: the options of CoreDNS's plugin `kubernetes` by their names and with its defaults. Not
//! responsible for reading a Corefile, or for the options that concern the way to the API server.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::Name;

/// One `kubernetes` block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// What the server is authoritative for; those below `in-addr.arpa` and `ip6.arpa` have the reverse names.
    pub zones: Vec<Name>,
    /// Those of `zones` that are shared by several clusters (KEP-1645): ServiceImports instead of Services.
    pub multicluster: Vec<Name>,
    /// Only these namespaces are there; empty means all of them.
    pub namespaces: Vec<String>,
    /// Only namespaces with such labels are there.
    pub namespace_labels: Option<String>,
    /// Only Services, EndpointSlices and Pods with such labels are there.
    pub labels: Option<String>,
    pub pods: Pods,
    /// Endpoints without a hostname are named after their pod rather than their address.
    pub endpoint_pod_names: bool,
    /// EndpointSlices aren't watched: no headless Service and no endpoint has a name.
    pub noendpoints: bool,
    /// A ClusterIP Service without a ready endpoint doesn't exist.
    pub ignore_empty_service: bool,
    /// Headless Services have names for the endpoints of one topology zone.
    pub zonal: bool,
    pub fallthrough: Fallthrough,
    /// Seconds that an answer may be kept, 3600 at most.
    pub ttl: u32,
    /// Addresses whose reverse names never fall through. No option of CoreDNS: empty there.
    pub reverse: Vec<IpNet>,
    /// Where this server answers: Services with such an endpoint are the zones' name servers.
    pub own_addresses: Vec<IpAddr>,
}

/// What `<address with dashes>.<namespace>.pod` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pods {
    /// Nothing.
    #[default]
    Disabled,
    /// The address, whoever has it.
    Insecure,
    /// The address, if a pod of the namespace has it.
    Verified,
}

/// Which names that don't exist are left to whoever is asked next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallthrough {
    #[default]
    Never,
    Always,
    /// Those in these zones.
    Zones(Vec<Name>),
}

/// Options that can't be together, or have no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no zone but reverse ones: services have to have names")]
    NoZone,
    #[error("ttl must be in range [0, 3600]: {0}")]
    Ttl(u32),
    #[error("namespaces and namespace_labels cannot both be set")]
    NamespacesTwice,
    #[error("the multicluster zone {0} is none of the zones")]
    Multicluster(Name),
    #[error("zonal names are made of endpoints, and noendpoints says that there are none")]
    ZonalWithoutEndpoints,
}

const TTL_MAX: u32 = 3600;

impl Default for Config {
    fn default() -> Self {
        Config {
            zones: Vec::new(),
            multicluster: Vec::new(),
            namespaces: Vec::new(),
            namespace_labels: None,
            labels: None,
            pods: Pods::default(),
            endpoint_pod_names: false,
            noendpoints: false,
            ignore_empty_service: false,
            zonal: false,
            fallthrough: Fallthrough::default(),
            ttl: 5,
            reverse: Vec::new(),
            own_addresses: Vec::new(),
        }
    }
}

impl Config {
    /// One domain with its pods' names and every reverse name, as kubeadm's Corefile has it: reverse names that no
    /// Service or endpoint has are asked of others.
    pub fn of_cluster(domain: Name) -> Self {
        let arpa = reverse_roots().to_vec();
        let zones = std::iter::once(domain).chain(arpa.clone()).collect();
        Config { zones, pods: Pods::Insecure, fallthrough: Fallthrough::Zones(arpa), ..Config::default() }
    }

    /// What CoreDNS refuses at its start.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.primary().is_none() {
            return Err(ConfigError::NoZone);
        }
        if self.ttl > TTL_MAX {
            return Err(ConfigError::Ttl(self.ttl));
        }
        if !self.namespaces.is_empty() && self.namespace_labels.is_some() {
            return Err(ConfigError::NamespacesTwice);
        }
        if let Some(stray) = self.multicluster.iter().find(|zone| !self.zones.contains(zone)) {
            return Err(ConfigError::Multicluster(stray.clone()));
        }
        if self.zonal && self.noendpoints {
            return Err(ConfigError::ZonalWithoutEndpoints);
        }
        Ok(())
    }

    /// The zone that a name lies in: of several, the one with the most labels.
    pub fn zone_of(&self, name: &Name) -> Option<&Name> {
        self.zones.iter().filter(|zone| name.is_in(zone)).max_by_key(|zone| zone.wire_len())
    }

    /// The zone that reverse names lead to.
    pub fn primary(&self) -> Option<&Name> {
        self.zones.iter().find(|zone| !is_reverse(zone))
    }

    pub(crate) fn falls_through(&self, name: &Name) -> bool {
        match &self.fallthrough {
            Fallthrough::Never => false,
            Fallthrough::Always => true,
            Fallthrough::Zones(zones) => zones.iter().any(|zone| name.is_in(zone)),
        }
    }

    /// Whether a namespace that exists may be seen.
    pub(crate) fn shows(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|n| n == namespace)
    }
}

/// Whether a zone has reverse names.
pub(crate) fn is_reverse(zone: &Name) -> bool {
    reverse_roots().iter().any(|root| zone.is_in(root))
}

/// RFC 1035 section 3.5, RFC 3596 section 2.5.
pub(crate) fn reverse_roots() -> &'static [Name; 2] {
    static ROOTS: LazyLock<[Name; 2]> =
        LazyLock::new(|| ["in-addr.arpa", "ip6.arpa"].map(|root| Name::parse(root).unwrap_or_default()));
    &ROOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn the_defaults_are_those_of_coredns() {
        let config = Config::default();
        assert_eq!((config.ttl, config.pods, &config.fallthrough), (5, Pods::Disabled, &Fallthrough::Never));
        assert!(!config.endpoint_pod_names && !config.noendpoints && !config.ignore_empty_service && !config.zonal);
        assert_eq!(config.check(), Err(ConfigError::NoZone));
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let good = Config { zones: vec![name("cluster.local")], ..Config::default() };
        assert_eq!(good.check(), Ok(()));
        let check = |change: fn(&mut Config)| {
            let mut config = good.clone();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert_eq!(check(|c| c.zones = reverse_roots().to_vec()), ConfigError::NoZone);
        assert_eq!(check(|c| c.ttl = 3601), ConfigError::Ttl(3601));
        let both = |c: &mut Config| {
            c.namespaces.push("a".to_owned());
            c.namespace_labels = Some("b".to_owned());
        };
        assert_eq!(check(both), ConfigError::NamespacesTwice);
        assert_eq!(check(|c| c.multicluster.push(name("x"))), ConfigError::Multicluster(name("x")));
        assert_eq!(check(|c| (c.zonal, c.noendpoints) = (true, true)), ConfigError::ZonalWithoutEndpoints);
    }

    #[test]
    fn a_configuration_can_be_written_down_and_read() {
        let mut config = Config::of_cluster(name("cluster.local"));
        config.own_addresses.push("172.30.0.11".parse().unwrap());
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert!(serde_json::from_str::<Config>(r#"{"zonez": []}"#).is_err());
        assert_eq!(config.zone_of(&name("Web.CLUSTER.local")), Some(&name("cluster.local")));
        assert_eq!(config.zone_of(&name("xcluster.local")), None);
    }
}
