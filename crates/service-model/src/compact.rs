//! Small forms of what objects repeat ten thousand times: the API's own words, the few labels that matter, addresses. A
//! proxy keeps every object it was told of, so what one takes is what the proxy takes. Not responsible for meaning.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::objects::{HEADLESS_LABEL, PROXY_NAME_LABEL, SERVICE_NAME_LABEL, ZONE_LABEL};

/// A word of the API. A known one takes no memory of its own.
pub type Word = Cow<'static, str>;

const WORDS: [&str; 15] = [
    "TCP",
    "UDP",
    "SCTP",
    "IPv4",
    "IPv6",
    "FQDN",
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "None",
    "ClientIP",
    "Cluster",
    "Local",
    "VIP",
];

const LABELS: [&str; 4] = [SERVICE_NAME_LABEL, HEADLESS_LABEL, PROXY_NAME_LABEL, ZONE_LABEL];

/// The labels that forwarding depends on; others are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<(&'static str, Box<str>)>);

/// Where an endpoint is: the first of its addresses, the only one that consumers use (EndpointSlice API,
/// `endpoints[].addresses`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    Ip(IpAddr),
    /// None, or text that is no address.
    Unreadable(Box<str>),
}

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_ref())
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn insert(&mut self, key: &'static str, value: impl Into<Box<str>>) {
        self.0.retain(|(known, _)| *known != key);
        self.0.reserve_exact(1);
        self.0.push((key, value.into()));
        // In one order, however they were listed: equal labels are equal objects.
        self.0.sort_unstable();
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Listed;
        impl<'de> Visitor<'de> for Listed {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Labels::default();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if let Some(known) = LABELS.into_iter().find(|known| *known == key) {
                        labels.insert(known, value);
                    }
                }
                Ok(labels)
            }
        }
        deserializer.deserialize_map(Listed)
    }
}

impl Default for EndpointAddress {
    fn default() -> Self {
        EndpointAddress::Unreadable(Box::default())
    }
}

impl From<IpAddr> for EndpointAddress {
    fn from(address: IpAddr) -> Self {
        EndpointAddress::Ip(address)
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Ip(address) => address.fmt(f),
            EndpointAddress::Unreadable(text) => text.fmt(f),
        }
    }
}

/// A word, or none where there is none or `null`.
pub(crate) fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    let known = WORDS.into_iter().chain([""]).find(|known| *known == text);
    Ok(known.map_or(Cow::Owned(text), Cow::Borrowed))
}

/// A list without room to grow; `null` is empty.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let mut list = Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default();
    list.shrink_to_fit();
    Ok(list)
}

pub(crate) fn first_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EndpointAddress, D::Error> {
    let addresses = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    let first = addresses.into_iter().next().unwrap_or_default();
    Ok(match first.parse() {
        Ok(address) => EndpointAddress::Ip(address),
        Err(_) => EndpointAddress::Unreadable(first.into()),
    })
}
