//! `loadbalance [round_robin | weighted FILE { reload DURATION }] { prefer CIDR… }`: addresses of answers in another order
//! each time, at random by default, or by the weights of a file that is looked at each 30s by default; those of the
//! preferred networks first.

use ipnet::IpNet;
use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::{GoDuration, Stanza};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loadbalance {
    pub policy: Policy,
    pub prefer: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    RoundRobin,
    Weighted { file: String, reload: GoDuration },
}

const OPTIONS: &[&str] = &["prefer"];
const OF_WEIGHTED: &[&str] = &["reload"];

impl Settings for Loadbalance {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Loadbalance { policy: Policy::RoundRobin, prefer: Vec::new() };
        while reader.stanza() {
            let arguments = reader.arguments();
            match arguments.first().map(|policy| (*policy, policy.text.as_str())) {
                None => settings.policy = Policy::RoundRobin,
                Some((_, "round_robin")) => {
                    settings.policy = Policy::RoundRobin;
                    if let Some(further) = arguments.get(1) {
                        reader.excess(further, "nothing after round_robin");
                    }
                }
                Some((_, "weighted")) => {
                    match &arguments[1..] {
                        [] => reader.missing("a file of weights"),
                        [file] => settings = weighted(reader, &file.text),
                        [_, further, ..] => reader.excess(further, "one file of weights"),
                    }
                    continue;
                }
                Some((policy, _)) => {
                    reader.bad::<()>(policy, "round_robin or weighted");
                }
            }
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "prefer" => networks(reader, &mut settings.prefer),
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = Stanza::new("loadbalance");
        vec![match &self.policy {
            Policy::RoundRobin => stanza.with("round_robin").list("prefer", &self.prefer),
            Policy::Weighted { file, reload } => stanza.with("weighted").with(file).option("reload", reload),
        }]
    }
}

/// A file of weights leaves no room for preferences in CoreDNS.
fn weighted(reader: &mut Reader<'_>, file: &str) -> Loadbalance {
    let mut reload = GoDuration::from_secs(30);
    while let Some(option) = reader.option() {
        match option.text.as_str() {
            "reload" => {
                let Some(token) = reader.sole("a duration") else { continue };
                reload.set(reader.duration(token, None));
            }
            _ => reader.unknown(option, OF_WEIGHTED),
        }
    }
    Loadbalance { policy: Policy::Weighted { file: file.to_owned(), reload }, prefer: Vec::new() }
}

fn networks(reader: &mut Reader<'_>, networks: &mut Vec<IpNet>) {
    for token in reader.arguments() {
        match token.text.parse::<IpNet>() {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => {
                reader.bad::<()>(token, "a CIDR such as 10.0.0.0/8");
            }
        }
    }
}
