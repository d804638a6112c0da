//! The page of metrics: each moves when what it counts happens, and what is said of a mode goes with it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use rustix::process::{Resource, Rlimit};
use serde_json::json;
use testkit::{eventually, patience};

use crate::page;
use crate::stand::{Stand, echo};

/// What stays where it is through all of this, and where it moves instead. Whether the first two are seen to move is chance:
/// changes wait for some milliseconds.
const STILL: [&str; 4] = [
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    // A table of nf_tables that can't be removed can't be made here: `crates/proxy/tests/suite/run.rs`.
    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
    "portolan_proxy_cleanup_failures_total",
];

/// What the proxy may have in the middle of it.
const DESCRIPTORS: u64 = 240;

/// ICMP's answer to a question that nobody asked, which connection tracking can't place.
const ANSWER: [u8; 8] = [0, 0, 0xed, 0xca, 0x12, 0x34, 0, 1];

/// Looks at the page, and remembers what was ever more than nothing.
struct Reader<'a> {
    stand: &'a Stand,
    moved: RefCell<BTreeSet<String>>,
}

impl Reader<'_> {
    fn page(&self) -> Result<String, String> {
        let answer = self.stand.get("127.0.0.1:10249/metrics")?;
        let page = answer.split_once("\r\n\r\n").ok_or("no body")?.1.to_owned();
        page::check(&page)?;
        let mut name = "";
        for line in page.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                name = kind.split(' ').next().unwrap();
            } else if !line.starts_with('#') && !line.ends_with(" 0") {
                self.moved.borrow_mut().insert(name.to_owned());
            }
        }
        Ok(page)
    }

    fn values(&self, series: &str) -> Result<Vec<(String, f64)>, String> {
        let page = self.page()?;
        let samples = page.lines().filter(|line| line.starts_with(series)).map(|line| line.rsplit_once(' ').unwrap());
        Ok(samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect())
    }

    /// Does something until a series is more than nothing.
    #[track_caller]
    fn until_moved(&self, series: &str, act: impl Fn()) {
        eventually(series, || {
            act();
            let values = self.values(series)?;
            if values.iter().any(|(_, value)| *value > 0.0) {
                return Ok(());
            }
            Err(format!("{values:?}\n{}", self.stand.log()))
        });
    }

    /// Whether what is said of modes is said of one alone.
    fn speaks_of(&self, mode: &str) {
        self.stand.until_counted(&format!("portolan_proxy_mode{{mode=\"{mode}\",asked=\"{mode}\"}} 1"));
        let of_modes = self.values("portolan_proxy_mode").unwrap();
        assert_eq!(of_modes.len(), 1, "{of_modes:?}");
        let objects = self.values("portolan_proxy_objects").unwrap();
        let own = format!("portolan_proxy_objects{{mode=\"{mode}\",");
        assert!(objects.iter().all(|(series, _)| series.starts_with(&own)), "{mode}: {objects:?}");
        for family in ["IPv4", "IPv6"] {
            let own = format!("{own}ip_family=\"{family}\"");
            assert!(objects.iter().any(|(series, _)| series.starts_with(&own)), "{mode}: {objects:?}");
        }
        let rules = self.values("kubeproxy_sync_proxy_rules_iptables_total").unwrap();
        assert_eq!(rules.is_empty(), mode != "iptables", "{mode}: {rules:?}");
        let written = self.values("kubeproxy_sync_proxy_rules_iptables_last").unwrap();
        assert_eq!(written.is_empty(), mode != "iptables", "{mode}: {written:?}");
        let ports = self.values("portolan_proxy_service_ports").unwrap();
        assert_eq!(ports.len(), 2, "{mode}: {ports:?}");
    }
}

#[test]
fn it_counts_what_happens_and_speaks_of_the_mode_in_force() {
    let stand = Stand::new();
    stand.configure("mode: iptables\n");
    let proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
    stand.until_answered(&stand.outside, "192.0.2.2:30080");
    let reader = Reader { stand: &stand, moved: RefCell::default() };
    probes(&stand, &reader);
    packets(&stand, &reader);
    flows(&stand, &reader);
    reader.until_moved("kubeproxy_sync_proxy_rules_no_local_endpoints_total", || {
        stand.endpoints("balanced", &[("10.244.2.5", "there", true)]);
    });
    reader.until_moved("kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}", || {});
    failures(&stand, &reader, "iptables", "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", || {
        stand.tool("iptables-nft -t nat -F");
        stand.tool("iptables-nft -t nat -X");
    });
    reader.speaks_of("iptables");
    let page = reader.page().unwrap();
    for name in page::KUBE_PROXY {
        assert!(page.contains(&format!("# TYPE {name} ")), "{name}\n{page}");
    }
    // No relay relays SCTP.
    stand.service("sctp", &json!({"clusterIP": "10.96.0.13", "ports": [{"port": 7, "protocol": "SCTP"}]}));
    // Userspace mode takes the limit as it finds it.
    let limit = Some(DESCRIPTORS);
    let process = rustix::process::Pid::from_raw(i32::try_from(proxy.id()).unwrap());
    rustix::process::prlimit(process, Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    stand.configure("mode: userspace\n");
    reader.speaks_of_soon("userspace");
    crowd(&stand, &reader);
    reader.until_moved("portolan_proxy_refused_service_ports", || {});
    stand.configure("mode: wrong\n");
    reader.until_moved("portolan_proxy_config_reloads_total{result=\"refused\"}", || {});
    stand.until_counted("portolan_proxy_config_last_reload_successful 0");
    stand.configure("mode: nftables\n");
    reader.speaks_of_soon("nftables");
    failures(&stand, &reader, "nftables", "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", || {
        stand.tool("nft delete table ip portolan");
    });
    reader.speaks_of("nftables");
    let page = reader.page().unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let moved = reader.moved.borrow();
    let still: Vec<&str> = names.filter(|name| !moved.contains(*name) && !STILL.contains(name)).collect();
    assert!(still.is_empty(), "these have not moved: {still:?}\n{page}");
}

impl Reader<'_> {
    /// The same when the mode's turn has come.
    fn speaks_of_soon(&self, mode: &str) {
        self.stand.until_counted(&format!("portolan_proxy_mode{{mode=\"{mode}\",asked=\"{mode}\"}} 1"));
        self.stand.until_answered(&self.stand.outside, "192.0.2.2:30080");
        self.speaks_of(mode);
    }
}

fn probes(stand: &Stand, reader: &Reader<'_>) {
    stand.get("127.0.0.1:10256/livez").unwrap();
    reader.until_moved("kubeproxy_proxy_livez_total{code=\"200\"}", || {});
    reader.until_moved("kubeproxy_proxy_healthz_total{code=\"200\"}", || drop(stand.get("127.0.0.1:10256/healthz")));
    let leaving = |taints| {
        let patch = json!({"spec": {"taints": taints}});
        stand.api.send("PATCH", "/api/v1/nodes/here", "application/merge-patch+json", &patch);
    };
    leaving(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]));
    reader.until_moved("kubeproxy_proxy_healthz_total{code=\"503\"}", || drop(stand.get("127.0.0.1:10256/healthz")));
    leaving(json!([]));
}

/// What rules have met is looked at now and then.
fn packets(stand: &Stand, reader: &Reader<'_>) {
    let raw = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4));
    let raw = stand.outside.run(raw).unwrap().unwrap();
    let pod = SocketAddr::from(([10, 244, 1, 5], 0));
    reader.until_moved("kubeproxy_iptables_ct_state_invalid_dropped_packets_total ", || {
        raw.send_to(&ANSWER, &pod.into()).unwrap();
    });
    reader.until_moved("kubeproxy_iptables_localhost_nodeports_accepted_packets_total ", || {
        stand.until_answered(&stand.node, "127.0.0.1:30080");
    });
}

/// More connections than there are descriptors for.
fn crowd(stand: &Stand, reader: &Reader<'_>) {
    let at = "192.0.2.2:30080".parse::<SocketAddr>().unwrap();
    let connect = || -> Vec<TcpStream> {
        let all = (0..DESCRIPTORS).filter_map(|_| TcpStream::connect_timeout(&at, patience()).ok());
        all.collect()
    };
    let mut served: Vec<TcpStream> = stand.outside.run(connect).unwrap();
    served.retain_mut(|stream| {
        stream.set_read_timeout(Some(patience())).unwrap();
        echo(stream).is_ok()
    });
    let room = usize::try_from(DESCRIPTORS / 12).unwrap();
    assert!((1..=room).contains(&served.len()), "{} of {room}", served.len());
    // Nobody else notices.
    stand.until_answered(&stand.node, "192.0.2.2:30080");
    stand.get("127.0.0.1:10256/livez").unwrap();
    reader.until_moved("portolan_proxy_connections_turned_away_total{ip_family=\"IPv4\"}", || {});
    served.iter_mut().for_each(|stream| echo(stream).unwrap());
}

/// One whose endpoint goes.
fn flows(stand: &Stand, reader: &Reader<'_>) {
    let udp = stand.node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    udp.connect("10.96.0.9:53".parse::<SocketAddr>().unwrap()).unwrap();
    udp.set_read_timeout(Some(patience())).unwrap();
    udp.send(b"hello").unwrap();
    assert_eq!(udp.recv(&mut [0; 9]).unwrap(), 5);
    reader.until_moved("kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"}", || {
        stand.endpoints("web", &[("10.244.1.6", "here", true)]);
    });
    stand.endpoints("web", &[("10.244.1.5", "here", true)]);
    stand.until_answered(&stand.outside, "192.0.2.2:30080");
}

/// A change meets rules that somebody has just spoiled. Whoever looks after them may be faster; then once more.
fn failures(stand: &Stand, reader: &Reader<'_>, mode: &str, counter: &str, spoil: impl Fn()) {
    let turn = std::cell::Cell::new(0_u8);
    reader.until_moved(&format!("{counter}{{ip_family=\"IPv4\"}}"), || {
        spoil();
        turn.set(turn.get().wrapping_add(1));
        stand.endpoints("web", &[("10.244.1.5", "here", true), ("10.244.1.6", "here", turn.get().is_multiple_of(2))]);
        stand.endpoints("web", &[("10.244.1.5", "here", true)]);
        stand.until_answered(&stand.outside, "192.0.2.2:30080");
    });
    let all = format!("portolan_proxy_sync_failures_total{{mode=\"{mode}\",ip_family=\"IPv4\"}}");
    reader.until_moved(&all, || {});
    stand.until_answered(&stand.outside, "192.0.2.2:30080");
}
