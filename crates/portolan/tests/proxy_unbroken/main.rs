//! Everything a proxy goes through in its life, under a steady stream of new connections, datagrams and connections that
//! stay: it ends and starts again, it is killed, its API is gone, its configuration and its mode change, its endpoints are
//! replaced. Nothing may be lost.
//!
//! `PORTOLAN_TEST_PROBES` is how many new connections and datagrams there are a second (400 unless it says more),
//! `PORTOLAN_TEST_OUTAGE` for how many seconds the API is gone (2).
#![allow(clippy::unwrap_used)]

mod place;
#[path = "../proxy_node/mod.rs"]
mod proxy_node;
mod stream;

use std::time::{Duration, Instant};

use place::{ENDPOINTS, Place};
use stream::Stream;
use testkit::eventually;

/// A datagram may still reach an endpoint for so long after it was taken from its Service. The bar of an idle machine is
/// 100 ms; this one holds where other tests run beside.
const STALE: Duration = Duration::from_millis(2_000);

/// In turn, so that each mode takes every other's place. Userspace mode relays: what it relays ends with its process, so
/// that isn't ended here.
const MODES: [&str; 7] = ["nftables", "iptables", "userspace", "nftables", "userspace", "iptables", "nftables"];

#[test]
fn nothing_is_lost_whatever_the_proxy_goes_through() {
    let place = Place::new();
    place.endpoints(&ready(0..4));
    place.configure(&in_mode(MODES[0]));
    let mut proxy = place.start_proxy();
    let mut life = Life { place: &place, stream: Stream::start(&place), slowest: Duration::ZERO, told: Vec::new() };
    life.go_through("nothing", true, |_| {});
    for (number, mode) in MODES.into_iter().enumerate() {
        if number > 0 {
            let before = MODES[number - 1];
            let translated = before != "userspace" && mode != "userspace";
            let what = format!("{before} mode becomes {mode} mode");
            life.go_through(&what, translated, |_| place.become_mode(mode, &in_mode(mode)));
            life.stream.keep_more();
        }
        if MODES[..number].contains(&mode) {
            continue;
        }
        if mode != "userspace" {
            life.go_through(&format!("{mode}: the proxy ends and starts again"), true, |_| {
                proxy.end();
                proxy = place.start_proxy();
            });
            life.go_through(&format!("{mode}: the proxy is killed and starts again"), true, |_| {
                proxy.kill();
                proxy = place.start_proxy();
            });
        }
        life.go_through(&format!("{mode}: another configuration"), true, |_| {
            place.reload(&format!(
                "{}iptables: {{masqueradeAll: true}}\nnftables: {{masqueradeAll: true}}\n",
                in_mode(mode)
            ));
            place.reload(&in_mode(mode));
        });
        life.go_through(&format!("{mode}: the API is gone for a while"), true, |_| {
            place.api.stop();
            std::thread::sleep(outage());
            place.api.serve(&place.node);
            place.until_followed();
        });
        life.go_through(&format!("{mode}: every endpoint is replaced"), false, |life| {
            for (old, _) in place.endpoints_now() {
                life.replace(old, (old + 4) % ENDPOINTS);
            }
        });
    }
    let (slowest, told) = (life.slowest, std::mem::take(&mut life.told));
    let done = life.stream.end();
    eprintln!("{done}; no datagram later than {slowest:?} after its endpoint went\n{}", told.join("\n"));
    drop(proxy);
}

fn in_mode(mode: &str) -> String {
    format!("mode: {mode}\nnodePortAddresses: [all]\n")
}

/// How long the API is gone: what is under test is that time passes, so there is no state to wait for.
fn outage() -> Duration {
    let seconds = std::env::var("PORTOLAN_TEST_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn ready(numbers: std::ops::Range<usize>) -> Vec<(usize, bool)> {
    numbers.map(|number| (number, true)).collect()
}

struct Life<'a> {
    place: &'a Place,
    stream: Stream,
    /// The latest that a datagram reached an endpoint after it was gone.
    slowest: Duration,
    told: Vec<String>,
}

impl Life<'_> {
    /// Something happens, the stream goes on before and after it, and nothing of it is lost. A datagram flow whose endpoint is
    /// healthy stays with it, if flows are said to stay.
    #[track_caller]
    fn go_through(&mut self, what: &str, flows_stay: bool, happen: impl FnOnce(&mut Self)) {
        let begun = Instant::now();
        self.stream.go_on();
        let before = self.stream.flows();
        happen(self);
        self.stream.go_on();
        let failures = self.stream.failures();
        assert!(failures.is_empty(), "{what}: {} lost: {failures:#?}\n{}", failures.len(), self.place.log());
        if flows_stay {
            assert_eq!(self.stream.flows(), before, "{what}: flows went elsewhere\n{}", self.place.log());
        }
        self.told.push(format!("{what}: {:.1} s", begun.elapsed().as_secs_f64()));
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
        assert!(late < STALE, "a datagram reached endpoint {old} {late:?} after it was gone");
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
        assert!(late < STALE, "{mode}: {late:?}");
        // Somebody comes back: the same flows reach them.
        place.endpoints(&[(1, true)]);
        stream.until_new_ones_reach(1);
        eprintln!("{mode}: no datagram later than {late:?} after the last endpoint went");
        drop((stream, proxy));
        place.clean_up();
    }
}

const _: () = assert!(ENDPOINTS == 8, "as many again as there are at first");
