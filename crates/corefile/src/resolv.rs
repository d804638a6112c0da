//! What of a resolv.conf counts: name servers and the search path. Not responsible for reading the file.

use serde::Serialize;

use crate::zone::Zone;

/// A resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct ResolvConf {
    pub servers: Vec<String>,
    pub search: Vec<Zone>,
}

impl ResolvConf {
    /// Of several `search` and `domain` lines the last counts.
    pub(crate) fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(str::to_owned)),
                Some("domain") => conf.search = words.next().map(Zone::of).into_iter().collect(),
                Some("search") => conf.search = words.map(Zone::of).collect(),
                _ => {}
            }
        }
        conf
    }
}
