//! Everything a proxy goes through in its life, under a steady stream of new connections, datagrams and connections that
//! stay: it ends and starts again, it is killed, its API is gone, its configuration and its mode change, its endpoints are
//! replaced. Nothing may be lost.
//!
//! `PORTOLAN_TEST_PROBES` is how many new connections and datagrams there are a second (400 unless it says more),
//! `PORTOLAN_TEST_OUTAGE` for how many seconds the API is gone (2).
#![allow(clippy::unwrap_used)]

mod limits;
mod place;
#[path = "../proxy_node/mod.rs"]
mod proxy_node;
mod stream;

use std::time::{Duration, Instant};

use place::{ENDPOINTS, Place};
use proxy_node::Proxy;
use stream::Stream;
use testkit::{eventually, slowly};

/// A datagram may still reach an endpoint for so long after it was taken from its Service. The bar of an idle machine is
/// 100 ms; this one holds where other tests run beside.
const STALE: Duration = Duration::from_millis(2_000);

/// In turn, so that each mode takes every other's place. Userspace mode relays: what it relays ends with its process, so
/// that isn't ended here.
const MODES: [&str; 7] = ["nftables", "iptables", "userspace", "nftables", "userspace", "iptables", "nftables"];

#[test]
fn nothing_is_lost_whatever_the_proxy_goes_through() {
    let place = Place::new();
    let mut life = Life::begin(&place, MODES[0]);
    life.go_through_everything();
    for (number, mode) in MODES.into_iter().enumerate().skip(1) {
        life.become_mode(mode);
        if !MODES[..number].contains(&mode) {
            life.go_through_everything();
        }
    }
    drop(life.end());
}

/// ipvs mode takes every other's place and gives it back, once while the proxy is gone.
#[test]
#[ignore = "needs a kernel with IPVS"]
fn nothing_is_lost_with_ipvs() {
    let place = Place::new();
    // IPVS must not forget a flow before connection tracking does: a client that takes the same port again would be taken
    // for the one before, whom nobody knows.
    netns::sysctl::set(&place.node, "net.netfilter.nf_conntrack_udp_timeout", "5").unwrap();
    netns::sysctl::set(&place.node, "net.netfilter.nf_conntrack_udp_timeout_stream", "5").unwrap();
    let mut life = Life::begin(&place, "ipvs");
    life.go_through_restarts();
    life.go_through("ipvs: the proxy starts again in nftables mode", true, |life| {
        life.proxy.end();
        place.configure(&in_mode("nftables"));
        life.proxy = place.start_proxy();
    });
    life.mode = "nftables";
    for mode in ["ipvs", "iptables", "ipvs", "userspace", "ipvs", "nftables"] {
        life.become_mode(mode);
    }
    assert!(place.devices().contains("kube-ipvs0"), "connections that began in ipvs mode need it");
    let _proxy = life.end();
    eventually("when the last connections have ended, nothing of ipvs mode is left", || {
        let devices = place.devices();
        if devices.contains("kube-ipvs0") { Err(format!("{devices}\n{}", place.log())) } else { Ok(()) }
    });
}

fn in_mode(mode: &str) -> String {
    // IPVS forgets flows that are over in time for a test.
    format!("mode: {mode}\nnodePortAddresses: [all]\nipvs: {{udpTimeout: 10s}}\n")
}

/// How long the API is gone: what is under test is that time passes, so there is no state to wait for.
fn outage() -> Duration {
    let seconds = std::env::var("PORTOLAN_TEST_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn ready(numbers: std::ops::Range<usize>) -> Vec<(usize, bool)> {
    numbers.map(|number| (number, true)).collect()
}

/// Of a proxy.
struct Life<'a> {
    place: &'a Place,
    proxy: Proxy,
    mode: &'static str,
    stream: Stream,
    /// The latest that a datagram reached an endpoint after it was gone.
    slowest: Duration,
    told: Vec<String>,
}

impl<'a> Life<'a> {
    fn begin(place: &'a Place, mode: &'static str) -> Life<'a> {
        place.endpoints(&ready(0..4));
        place.configure(&in_mode(mode));
        let (proxy, stream) = (place.start_proxy(), Stream::start(place));
        let mut life = Life { place, proxy, mode, stream, slowest: Duration::ZERO, told: Vec::new() };
        life.go_through("nothing", true, |_| {});
        life
    }

    fn become_mode(&mut self, mode: &'static str) {
        let before = std::mem::replace(&mut self.mode, mode);
        let translated = before != "userspace" && mode != "userspace";
        let what = format!("{before} mode becomes {mode} mode");
        self.go_through(&what, translated, |life| life.place.become_mode(mode, &in_mode(mode)));
        self.stream.keep_more();
    }

    fn go_through_restarts(&mut self) {
        let mode = self.mode;
        self.go_through(&format!("{mode}: the proxy ends and starts again"), true, |life| {
            life.proxy.end();
            life.proxy = life.place.start_proxy();
        });
        self.go_through(&format!("{mode}: the proxy is killed and starts again"), true, |life| {
            life.proxy.kill();
            life.proxy = life.place.start_proxy();
        });
    }

    /// Whatever may happen in a mode.
    fn go_through_everything(&mut self) {
        let mode = self.mode;
        if mode != "userspace" {
            self.go_through_restarts();
        }
        self.go_through(&format!("{mode}: another configuration"), true, |life| {
            life.place.reload(&format!(
                "{}iptables: {{masqueradeAll: true}}\nnftables: {{masqueradeAll: true}}\n",
                in_mode(mode)
            ));
            life.place.reload(&in_mode(mode));
        });
        self.go_through(&format!("{mode}: the API is gone for a while"), true, |life| {
            life.place.api.stop();
            std::thread::sleep(outage());
            life.place.api.serve(&life.place.node);
            life.place.until_followed();
        });
        self.go_through(&format!("{mode}: every endpoint is replaced"), false, |life| {
            for (old, _) in life.place.endpoints_now() {
                life.replace(old, (old + 4) % ENDPOINTS);
            }
        });
        let late = std::mem::take(&mut self.slowest);
        self.told.push(format!("{mode}: no datagram later than {late:?} after its endpoint went"));
    }

    /// Ends the stream; nothing of it may have been lost. The proxy goes on.
    fn end(self) -> Proxy {
        let Life { told, stream, proxy, .. } = self;
        eprintln!("{}", told.join("\n"));
        let done = stream.end();
        eprintln!("{done}");
        proxy
    }

    /// Something happens, the stream goes on before and after it, and nothing of it is lost. A datagram flow whose endpoint is
    /// healthy stays with it, if flows are said to stay.
    #[track_caller]
    fn go_through(&mut self, what: &str, flows_stay: bool, happen: impl FnOnce(&mut Self)) {
        let begun = self.stream.lasted();
        self.stream.go_on();
        let before = self.stream.flows();
        happen(self);
        self.stream.go_on();
        let failures = self.stream.failures();
        let (told, now) = (self.told.join("\n"), self.stream.lasted().as_secs_f64());
        assert!(
            failures.is_empty(),
            "{told}\n{what}, until {now:.1} s: {} lost: {failures:#?}\n{}",
            failures.len(),
            self.place.log()
        );
        if flows_stay {
            assert_eq!(self.stream.flows(), before, "{what}: flows went elsewhere\n{}", self.place.log());
        }
        let [begun, ended] = [begun, self.stream.lasted()].map(|time| time.as_secs_f64());
        self.told.push(format!("{what}: from {begun:.1} to {ended:.1} s"));
    }

    /// As a rolling update does it: the new endpoint is ready, the old one ends while it still serves, then it is gone, and
    /// only then it listens no more.
    fn replace(&mut self, old: usize, new: usize) {
        let mut now = self.place.endpoints_now();
        now.push((new, true));
        self.place.endpoints(&now);
        self.stream.until_new_ones_reach(new);
        now.iter_mut().filter(|(number, _)| *number == old).for_each(|(_, ready)| *ready = false);
        self.place.endpoints(&now);
        now.retain(|(number, _)| *number != old);
        self.place.endpoints(&now);
        let gone = Instant::now();
        self.stream.until_new_ones_spare(old, gone);
        let late = self.stream.last_datagram(old).saturating_duration_since(gone);
        assert!(late < slowly(STALE), "a datagram reached endpoint {old} {late:?} after it was gone");
        self.slowest = self.slowest.max(late);
        self.place.servers.close(old);
        self.stream.go_on();
        self.place.servers.open(old);
    }
}

#[test]
fn no_datagram_reaches_an_endpoint_that_is_gone_also_if_it_was_the_last() {
    let place = Place::new();
    for mode in ["nftables", "iptables", "userspace"] {
        place.endpoints(&[(0, true)]);
        place.configure(&in_mode(mode));
        let proxy = place.start_proxy();
        let stream = Stream::flows_alone(&place);
        stream.until_new_ones_reach(0);
        place.endpoints(&[]);
        let gone = Instant::now();
        eventually("nothing arrives", || {
            let silence = stream.last_datagram(0).elapsed();
            if silence > Duration::from_millis(500) { Ok(()) } else { Err(format!("silent for {silence:?}")) }
        });
        let late = stream.last_datagram(0).saturating_duration_since(gone);
        assert!(late < slowly(STALE), "{mode}: {late:?}");
        // Somebody comes back: the same flows reach them.
        place.endpoints(&[(1, true)]);
        stream.until_new_ones_reach(1);
        eprintln!("{mode}: no datagram later than {late:?} after the last endpoint went");
        drop((stream, proxy));
        place.clean_up();
    }
}

const _: () = assert!(ENDPOINTS == 8, "as many again as there are at first");
