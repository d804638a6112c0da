//! Counters under CoreDNS's names, so that dashboards made for it work.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use dns_zone::Rcode;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What one server counts.
#[derive(Default)]
pub struct Metrics {
    requests: [AtomicU64; 2],
    responses: [AtomicU64; 6],
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    forwarded: AtomicU64,
    forward_failures: AtomicU64,
    shed: AtomicU64,
}

const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

impl Metrics {
    pub fn request(&self, transport: Transport) {
        self.requests[transport as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a response by the code in its header.
    pub fn response(&self, message: &[u8]) {
        let code = usize::from(message.get(3).copied().unwrap_or(Rcode::ServFail as u8) & 0xf);
        if let Some(counter) = self.responses.get(code) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn cache(&self, hit: bool) {
        let counter = if hit { &self.cache_hits } else { &self.cache_misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn forwarded(&self, answered: bool) {
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        if !answered {
            self.forward_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// The Prometheus text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut family = |name: &str, help: &str, samples: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let plain = |counter| [(String::new(), read(counter))];
        let requests: Vec<_> =
            ["udp", "tcp"].iter().zip(&self.requests).map(|(p, c)| (format!("{{proto=\"{p}\"}}"), read(c))).collect();
        let responses: Vec<_> =
            RCODES.iter().zip(&self.responses).map(|(r, c)| (format!("{{rcode=\"{r}\"}}"), read(c))).collect();
        family("coredns_dns_requests_total", "Questions received.", &requests);
        family("coredns_dns_responses_total", "Responses sent, by code.", &responses);
        family("coredns_cache_hits_total", "Forwarded names answered from the cache.", &plain(&self.cache_hits));
        family("coredns_cache_misses_total", "Forwarded names not in the cache.", &plain(&self.cache_misses));
        family("coredns_forward_requests_total", "Questions sent to other servers.", &plain(&self.forwarded));
        family(
            "portolan_dns_forward_failures_total",
            "Questions no other server answered.",
            &plain(&self.forward_failures),
        );
        family("coredns_forward_max_concurrent_rejects_total", "Questions refused: too many wait.", &plain(&self.shed));
        text
    }
}
