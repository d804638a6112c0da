//! `forward FROM TO… { … }`: names below FROM are asked of others, of up to 15. Options and their defaults: `except ZONES…`,
//! `force_tcp`, `prefer_udp`, `expire 10s`, `max_age` and `max_idle_conns` (0, no limit), `max_fails 2`,
//! `max_connect_attempts`, `health_check 500ms [no_rec] [domain .]`, `policy random|round_robin|sequential`,
//! `max_concurrent` (0, no limit), `read_timeout 2s`, `tls [CERT KEY] [CA]`, `tls_servername`, `doh_method POST|GET`,
//! `next RCODES…`, `next_on_nodata`, `failover RCODES…`, `failfast_all_unhealthy_upstreams`, `resolver ADDRESSES…`,
//! `source_address`.

use std::net::IpAddr;

use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::token::Token;
use crate::upstream::To;
use crate::zone::{self, Zone};
use crate::{GoDuration, Rcode, Stanza};

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forward {
    pub from: Zone,
    pub to: Vec<To>,
    pub except: Vec<Zone>,
    pub force_tcp: bool,
    pub prefer_udp: bool,
    /// How long a connection may be idle, may live (0: for ever), and how many may be idle (0: any number).
    pub expire: GoDuration,
    pub max_age: GoDuration,
    pub max_idle_conns: i64,
    /// After how many failures an upstream counts as down; 0 for never.
    pub max_fails: u32,
    pub max_connect_attempts: Option<u32>,
    pub health_check: HealthCheck,
    pub policy: Policy,
    /// Queries at a time, beyond which they are refused; 0 for any number.
    pub max_concurrent: i64,
    pub read_timeout: GoDuration,
    pub tls: ClientTls,
    pub doh_method: DohMethod,
    /// What makes the next plugin be asked.
    pub next: Vec<Rcode>,
    pub next_on_nodata: bool,
    /// What makes the next upstream be asked.
    pub failover: Vec<Rcode>,
    pub failfast_all_unhealthy_upstreams: bool,
    /// Who is asked for the addresses of upstreams that are names.
    pub resolver: Vec<String>,
    pub source_address: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    pub interval: GoDuration,
    pub recursion_desired: bool,
    pub domain: Zone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    Random,
    RoundRobin,
    Sequential,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DohMethod {
    Get,
    Post,
}

/// How TLS is spoken to upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ClientTls {
    /// A certificate and its key, by which upstreams know us.
    pub certificate: Option<(String, String)>,
    /// Whose certificates count; the system's if there is none.
    pub ca: Option<String>,
    pub server_name: Option<String>,
}

const MOST_UPSTREAMS: usize = 15;

#[rustfmt::skip]
const OPTIONS: &[&str] = &[
    "except", "force_tcp", "prefer_udp", "expire", "max_age", "max_idle_conns", "max_fails", "max_connect_attempts",
    "health_check", "policy", "max_concurrent", "read_timeout", "tls", "tls_servername", "doh_method", "next",
    "next_on_nodata", "failover", "failfast_all_unhealthy_upstreams", "resolver", "source_address",
];

impl Settings for Vec<Forward> {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut forwards = Vec::new();
        while reader.stanza() {
            forwards.extend(stanza(reader));
        }
        forwards
    }

    fn stanzas(&self) -> Vec<Stanza> {
        self.iter().map(Forward::stanza).collect()
    }
}

impl Forward {
    fn new() -> Self {
        Forward {
            from: Zone::root(),
            to: Vec::new(),
            except: Vec::new(),
            force_tcp: false,
            prefer_udp: false,
            expire: GoDuration::from_secs(10),
            max_age: GoDuration::ZERO,
            max_idle_conns: 0,
            max_fails: 2,
            max_connect_attempts: None,
            health_check: HealthCheck {
                interval: GoDuration::from_millis(500),
                recursion_desired: true,
                domain: Zone::root(),
            },
            policy: Policy::Random,
            max_concurrent: 0,
            read_timeout: GoDuration::from_secs(2),
            tls: ClientTls::default(),
            doh_method: DohMethod::Post,
            next: Vec::new(),
            next_on_nodata: false,
            failover: Vec::new(),
            failfast_all_unhealthy_upstreams: false,
            resolver: Vec::new(),
            source_address: None,
        }
    }

    fn stanza(&self) -> Stanza {
        let mut health = vec![self.health_check.interval.to_string()];
        health.extend((!self.health_check.recursion_desired).then(|| "no_rec".to_owned()));
        health.extend(["domain".to_owned(), self.health_check.domain.to_string()]);
        let tls: Vec<&String> =
            self.tls.certificate.iter().flat_map(|(certificate, key)| [certificate, key]).chain(&self.tls.ca).collect();
        Stanza::new("forward")
            .with(&self.from)
            .with_all(&self.to)
            .list("except", &self.except)
            .flag("force_tcp", self.force_tcp)
            .flag("prefer_udp", self.prefer_udp)
            .option("expire", self.expire)
            .option("max_age", self.max_age)
            .option("max_idle_conns", self.max_idle_conns)
            .option("max_fails", self.max_fails)
            .maybe("max_connect_attempts", self.max_connect_attempts)
            .line("health_check", health)
            .option("policy", self.policy.name())
            .option("max_concurrent", self.max_concurrent)
            .option("read_timeout", self.read_timeout)
            .list("tls", &tls)
            .maybe("tls_servername", self.tls.server_name.as_ref())
            .option("doh_method", if self.doh_method == DohMethod::Get { "GET" } else { "POST" })
            .list("next", &self.next)
            .flag("next_on_nodata", self.next_on_nodata)
            .list("failover", &self.failover)
            .flag("failfast_all_unhealthy_upstreams", self.failfast_all_unhealthy_upstreams)
            .list("resolver", &self.resolver)
            .maybe("source_address", self.source_address)
    }
}

impl Policy {
    const ALL: [Policy; 3] = [Policy::Random, Policy::RoundRobin, Policy::Sequential];

    pub fn name(self) -> &'static str {
        match self {
            Policy::Random => "random",
            Policy::RoundRobin => "round_robin",
            Policy::Sequential => "sequential",
        }
    }
}

fn stanza(reader: &mut Reader<'_>) -> Option<Forward> {
    let mut forward = Forward::new();
    let from = reader.one("a zone, and upstreams")?;
    match zone::zones(&from.text) {
        Ok(zones) if zones.len() > 1 => {
            reader.bad::<()>(from, "a zone, or a CIDR of a whole octet (of IPv6: of a whole digit)");
        }
        Ok(zones) => forward.from.set(zones.into_iter().next()),
        Err(_) => {
            reader.bad::<()>(from, "a zone");
        }
    }
    let to = reader.some("upstreams").unwrap_or_default();
    while let Some(option) = reader.option() {
        read_option(reader, &mut forward, option);
    }
    if forward.max_age > GoDuration::ZERO && forward.max_age < forward.expire {
        reader.together("max_age is shorter than expire", "make it as long, or expire shorter");
    }
    for token in &to {
        let Some(upstream) = To::read(reader, token) else { continue };
        let named = matches!(
            &upstream,
            To::Address { transport: zone::Transport::Tls | zone::Transport::Quic, suffix: Some(_), .. }
                | To::Name { transport: zone::Transport::Tls | zone::Transport::Quic, suffix: Some(_), .. }
        );
        if named && forward.tls.server_name.is_some() {
            reader.bad::<()>(token, "an upstream without %NAME, which tls_servername is there for");
        }
        if !forward.to.contains(&upstream) {
            forward.to.push(upstream);
        }
    }
    if forward.to.len() > MOST_UPSTREAMS {
        reader.together(format!("there are more than {MOST_UPSTREAMS} upstreams"), "remove some");
    }
    let known = forward.to.iter().map(To::count).sum::<usize>();
    if known == 0 && !to.is_empty() && forward.to.len() == to.len() {
        reader.together("no file of upstreams has any name server", "name an address");
    }
    Some(forward)
}

fn read_option(reader: &mut Reader<'_>, forward: &mut Forward, option: &Token) {
    const ANY: i64 = i64::MAX;
    let zero = Some(GoDuration::ZERO);
    match option.text.as_str() {
        "except" => {
            let zones = reader.some("zones").unwrap_or_default();
            forward.except.extend(reader.zones(&zones));
        }
        "force_tcp" => forward.force_tcp |= flag(reader),
        "prefer_udp" => forward.prefer_udp |= flag(reader),
        "next_on_nodata" => forward.next_on_nodata |= flag(reader),
        "failfast_all_unhealthy_upstreams" => forward.failfast_all_unhealthy_upstreams |= flag(reader),
        "expire" => forward.expire.set(one(reader, |reader, token| reader.duration(token, zero))),
        "max_age" => forward.max_age.set(one(reader, |reader, token| reader.duration(token, zero))),
        "max_idle_conns" => forward.max_idle_conns.set(one(reader, |reader, token| reader.number(token, 0..=ANY))),
        "max_concurrent" => forward.max_concurrent.set(one(reader, |reader, token| reader.number(token, 0..=ANY))),
        "max_fails" => forward.max_fails.set(one(reader, count)),
        "max_connect_attempts" => forward.max_connect_attempts = one(reader, count),
        "health_check" => health_check(reader, &mut forward.health_check),
        "policy" => forward.policy.set(one(reader, |reader, token| {
            let found = Policy::ALL.into_iter().find(|policy| policy.name() == token.text);
            found.or_else(|| reader.bad(token, "random, round_robin or sequential"))
        })),
        "read_timeout" => {
            forward.read_timeout.set(one(reader, |reader, token| match reader.duration(token, zero)? {
                GoDuration::ZERO => reader.bad(token, "a duration above 0s"),
                timeout => Some(timeout),
            }))
        }
        "tls" => tls(reader, &mut forward.tls),
        "tls_servername" => forward.tls.server_name = reader.one("a name").map(|token| token.text.clone()),
        "doh_method" => forward.doh_method.set(one(reader, |reader, token| match token.text.as_str() {
            "GET" => Some(DohMethod::Get),
            "POST" => Some(DohMethod::Post),
            _ => reader.bad(token, "POST or GET"),
        })),
        "next" => forward.next.extend(rcodes(reader)),
        "failover" => {
            for (rcode, token) in rcodes_with_tokens(reader) {
                match rcode {
                    Rcode(0) => {
                        reader.bad::<()>(token, "the code of a failure");
                    }
                    rcode => forward.failover.push(rcode),
                }
            }
        }
        "resolver" => resolver(reader, &mut forward.resolver),
        "source_address" => {
            forward.source_address = one(reader, |reader, token| match token.text.parse() {
                Ok(address) => Some(address),
                Err(_) => reader.bad(token, "an IP address"),
            })
        }
        _ => reader.unknown(option, OPTIONS),
    }
}

/// The value of an option that has one.
fn one<T>(reader: &mut Reader<'_>, read: impl FnOnce(&mut Reader<'_>, &Token) -> Option<T>) -> Option<T> {
    let token = reader.one("a value")?;
    read(reader, token)
}

fn flag(reader: &mut Reader<'_>) -> bool {
    reader.nothing()
}

fn count(reader: &mut Reader<'_>, token: &Token) -> Option<u32> {
    reader.unsigned(token, 0..=i64::from(u32::MAX)).and_then(|count| u32::try_from(count).ok())
}

fn health_check(reader: &mut Reader<'_>, check: &mut HealthCheck) {
    let interval = one(reader, |reader, token| reader.duration(token, Some(GoDuration::ZERO)));
    check.interval.set(interval);
    check.domain = Zone::root();
    while let Some(token) = reader.argument() {
        match token.text.as_str() {
            "no_rec" => check.recursion_desired = false,
            "domain" => {
                let Some(domain) = reader.one("a domain") else { return };
                match zone::is_domain_name(&domain.text) {
                    true => check.domain = Zone::of(&domain.text),
                    false => {
                        reader.bad::<()>(domain, "a domain");
                    }
                }
            }
            _ => {
                reader.bad::<()>(token, "no_rec, or domain and a name");
            }
        }
    }
}

/// `[CA]`, `CERT KEY` or `CERT KEY CA`.
fn tls(reader: &mut Reader<'_>, tls: &mut ClientTls) {
    let arguments = reader.arguments();
    if let Some(further) = arguments.get(3) {
        reader.excess(further, "a certificate, its key and an authority's certificate");
        return;
    }
    let files: Vec<Option<String>> = arguments.into_iter().map(|token| reader.file(token)).collect();
    let mut files = files.into_iter();
    (tls.certificate, tls.ca) = match files.len() {
        0 | 1 => (None, files.next().flatten()),
        _ => (files.next().flatten().zip(files.next().flatten()), files.next().flatten()),
    };
}

fn rcodes(reader: &mut Reader<'_>) -> Vec<Rcode> {
    rcodes_with_tokens(reader).into_iter().map(|(rcode, _)| rcode).collect()
}

fn rcodes_with_tokens<'a>(reader: &mut Reader<'a>) -> Vec<(Rcode, &'a Token)> {
    let mut rcodes = Vec::new();
    for token in reader.some("response codes").unwrap_or_default() {
        match Rcode::parse(&token.text.to_uppercase()) {
            Some(rcode) => rcodes.push((rcode, token)),
            None => {
                reader.bad::<()>(token, "a response code such as SERVFAIL or NXDOMAIN");
            }
        }
    }
    rcodes
}

fn resolver(reader: &mut Reader<'_>, resolver: &mut Vec<String>) {
    resolver.clear();
    for token in reader.some("addresses").unwrap_or_default() {
        let host = zone::split_address(&token.text).map_or(token.text.as_str(), |(host, _)| host);
        match host.parse::<IpAddr>() {
            Ok(_) => resolver.push(token.text.clone()),
            Err(_) => {
                reader.bad::<()>(token, "an IP address, or one with a port");
            }
        }
    }
}
