//! `portolan proxy` at work on a node: its configuration changes under it, its mode too, and nobody notices; it ends and is
//! cleaned up, and leaves nothing; it takes over from a kube-proxy.
#![allow(clippy::unwrap_used)]

mod counts;
mod page;
#[path = "../proxy_node/mod.rs"]
mod proxy_node;
mod stand;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use netlink::{MessageType, Subsystem};
use proxy_node::ip;
use stand::{Prober, Stand, WHO, echo};
use testkit::{eventually, patience};

const EVERYWHERE: &str = "nodePortAddresses: [all, localhost]\n";

const NAT_HOOKS: &[&str] = &["PREROUTING", "OUTPUT", "POSTROUTING"];
const FILTER_HOOKS: &[&str] = &["INPUT", "FORWARD", "OUTPUT"];

fn mode(stand: &Stand, mode: &str, asked: &str) {
    stand.until_counted(&format!("portolan_proxy_mode{{mode=\"{mode}\",asked=\"{asked}\"}} 1"));
    let others: &[&str] = match mode {
        "nftables" => &["KUBE-", "portolan-userspace"],
        "userspace" => &["KUBE-", "table ip portolan {"],
        _ => &["table ip portolan"],
    };
    eventually("the other modes' rules go", || {
        let rules = stand.tool("nft list ruleset");
        if others.iter().any(|other| rules.contains(other)) { Err(format!("{rules}\n{}", stand.log())) } else { Ok(()) }
    });
}

#[test]
fn modes_change_and_no_connection_notices() {
    let stand = Stand::new();
    stand.configure("");
    let _proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
    stand.until_answered(&stand.outside, "192.0.2.2:30080");
    stand.until_answered(&stand.node, "127.0.0.1:30080");
    mode(&stand, "nftables", "nftables");
    let ways = [(&stand.node, "10.96.0.9:80"), (&stand.node, "127.0.0.1:30080"), (&stand.outside, "192.0.2.2:30080")];
    let mut streams: Vec<TcpStream> = ways.iter().map(|(from, at)| stand.connect(from, at)).collect();
    let probers: Vec<Prober> = ways.iter().map(|(from, at)| Prober::start(from, at)).collect();
    let udp = stand.node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    udp.connect("10.96.0.9:53".parse::<SocketAddr>().unwrap()).unwrap();
    udp.set_read_timeout(Some(patience())).unwrap();
    let go_on = |streams: &mut Vec<TcpStream>| {
        probers.iter().for_each(|prober| prober.go_on(50));
        streams.iter_mut().for_each(|stream| echo(stream).unwrap());
        udp.send(b"hello").unwrap();
        assert_eq!(udp.recv(&mut [0; 9]).unwrap(), 5);
    };
    go_on(&mut streams);
    for (text, now, asked) in [
        ("mode: iptables\n", "iptables", "iptables"),
        ("mode: iptables\niptables: {masqueradeBit: 9}\n", "iptables", "iptables"),
        ("mode: nftables\n", "nftables", "nftables"),
        ("mode: userspace\n", "userspace", "userspace"),
        ("mode: userspace\nnftables: {masqueradeAll: true}\n", "userspace", "userspace"),
        ("mode: ipvs\n", "iptables", "ipvs"),
        ("mode: userspace\n", "userspace", "userspace"),
        ("", "nftables", "nftables"),
    ] {
        stand.configure(&format!("{text}{EVERYWHERE}"));
        mode(&stand, now, asked);
        // What one mode began, the others leave alone.
        streams.extend(ways.iter().map(|(from, at)| stand.connect(from, at)));
        go_on(&mut streams);
    }
    for prober in probers {
        let (done, failures) = prober.end();
        assert!(failures.is_empty(), "{} of {done}: {:?}\n{}", failures.len(), failures.first(), stand.log());
    }
    assert!(stand.get("127.0.0.1:10249/proxyMode").unwrap().ends_with("nftables"));
    eventually("it is told that there is no IPVS", || {
        let told = stand.api.told();
        if told.iter().any(|reason| reason == "ProxyModeUnavailable") { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

#[test]
fn a_broken_file_is_refused_and_the_old_one_stays() {
    let stand = Stand::new();
    stand.configure("mode: nftables\n");
    let _proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
    stand.until_answered(&stand.outside, "192.0.2.2:30080");
    stand.until_counted("portolan_proxy_config_last_reload_successful 1");
    for (number, text) in ["mode: wrong\n", "mode: [\n", "mode: userspace-but-not-quite\n"].iter().enumerate() {
        stand.configure(text);
        stand.until_counted(&format!("portolan_proxy_config_reloads_total{{result=\"refused\"}} {}", number + 1));
        stand.until_counted("portolan_proxy_config_last_reload_successful 0");
        stand.until_answered(&stand.outside, "192.0.2.2:30080");
    }
    eventually("an Event says so", || {
        let told = stand.api.told();
        let refused = told.iter().filter(|reason| *reason == "ProxyConfigurationRefused").count();
        if refused >= 3 { Ok(()) } else { Err(format!("{told:?}")) }
    });
    assert!(stand.log().contains("Invalid value: \"wrong\""), "{}", stand.log());
    // Both servers move.
    stand.configure("mode: nftables\nmetricsBindAddress: 127.0.0.1:10250\nhealthzBindAddress: 127.0.0.1:10257\n");
    eventually("it is served elsewhere", || {
        let page = stand.get("127.0.0.1:10250/metrics")?;
        if page.contains("result=\"applied\"} 1\n") { Ok(()) } else { Err(page) }
    });
    eventually("and not where it was", || match stand.get("127.0.0.1:10249/metrics") {
        Ok(_) => Err("it answers".to_owned()),
        Err(_) => Ok(()),
    });
    stand.get("127.0.0.1:10257/healthz").unwrap();
    assert!(stand.get("127.0.0.1:10256/healthz").is_err());
}

#[test]
fn it_tells_balancers_how_many_endpoints_are_here() {
    let stand = Stand::new();
    stand.configure("mode: nftables\n");
    let _proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
    let asked = |code: &str, number: usize| {
        eventually(code, || {
            let answer = stand.get("192.0.2.2:32000/anything")?;
            let body = format!(
                "{{\n\t\"service\": {{\n\t\t\"namespace\": \"n\",\n\t\t\"name\": \"balanced\"\n\t}},\n\t\
                 \"localEndpoints\": {number},\n\t\"serviceProxyHealthy\": true\n}}"
            );
            let weight = format!("x-load-balancing-endpoint-weight: {number}\r\n");
            let good = answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.ends_with(&body);
            if good && answer.to_ascii_lowercase().contains(&weight) { Ok(()) } else { Err(answer) }
        });
    };
    asked("200", 1);
    stand.endpoints("balanced", &[("10.244.1.5", "here", false), ("10.244.2.5", "there", true)]);
    asked("503", 0);
    stand.endpoints("balanced", &[("10.244.1.5", "here", true), ("10.244.1.6", "here", true)]);
    asked("200", 2);
    // A port that is somebody else's is told of, and taken when it's free.
    let taken = stand.node.run(|| std::net::TcpListener::bind("192.0.2.2:32001").unwrap()).unwrap();
    let ports = serde_json::json!([{"name": "tcp", "port": 80, "nodePort": 30_095}]);
    stand.service(
        "other",
        &serde_json::json!({"type": "LoadBalancer", "clusterIP": "10.96.0.11", "externalTrafficPolicy": "Local",
                            "healthCheckNodePort": 32_001, "ports": ports}),
    );
    eventually("an Event says so", || {
        let told = stand.api.told();
        let found = told.iter().any(|reason| reason == "FailedToStartServiceHealthcheck");
        if found { Ok(()) } else { Err(format!("{told:?}\n{}", stand.log())) }
    });
    drop(taken);
    eventually("it listens", || {
        let answer = stand.get("192.0.2.2:32001/")?;
        if answer.starts_with("HTTP/1.1 503") { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn nftables_mode_runs_no_program() {
    let stand = Stand::new();
    stand.configure(&format!("mode: nftables\n{EVERYWHERE}"));
    let _proxy = stand.start_alone(&["--config", stand.config().to_str().unwrap()]);
    stand.until_answered(&stand.outside, "192.0.2.2:30080");
    stand.until_answered(&stand.node, "127.0.0.1:30080");
    stand.endpoints("web", &[]);
    eventually("nobody answers", || {
        let at = SocketAddr::from(([10, 96, 0, 9], 80));
        let answers = stand.node.run(|| TcpStream::connect_timeout(&at, patience()).is_ok()).unwrap();
        if answers { Err(stand.log()) } else { Ok(()) }
    });
    // iptables mode says at once what is missing there.
    stand.configure("mode: iptables\n");
    stand.until_counted("portolan_proxy_config_reloads_total{result=\"refused\"} 1");
    assert!(stand.log().contains("iptables"), "{}", stand.log());
}

#[test]
fn the_nodes_loopback_stays_shut() {
    let stand = Stand::new();
    let private = stand.node.run(|| std::net::TcpListener::bind("127.0.0.1:7777").unwrap()).unwrap();
    private.set_nonblocking(true).unwrap();
    ip(&stand.outside, "route add 127.0.0.0/8 via 192.0.2.2 table main");
    netns::sysctl::set(&stand.outside, "net.ipv4.conf.all.route_localnet", "1").unwrap();
    ip(&stand.outside, "addr del 127.0.0.1/8 dev lo");
    for mode in ["nftables", "iptables"] {
        stand.configure(&format!("mode: {mode}\n{EVERYWHERE}"));
        let mut proxy = Some(stand.start(&["--config", stand.config().to_str().unwrap()]));
        stand.until_answered(&stand.node, "127.0.0.1:30080");
        assert_eq!(netns::sysctl::get(&stand.node, "net.ipv4.conf.all.route_localnet").unwrap().trim(), "1");
        let knock = |port: u16| {
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            let short = std::time::Duration::from_millis(300);
            stand.outside.run(|| TcpStream::connect_timeout(&at, short).is_ok()).unwrap()
        };
        assert!(!knock(7777), "{mode}: neighbours are kept from the node's loopback");
        assert!(private.accept().is_err());
        // Without localhost it's closed again, before what guards it goes.
        stand.configure(&format!("mode: {mode}\nnodePortAddresses: [all]\n"));
        eventually("the way is closed", || {
            let open = netns::sysctl::get(&stand.node, "net.ipv4.conf.all.route_localnet").unwrap();
            if open.trim() == "0" { Ok(()) } else { Err(stand.log()) }
        });
        stand.until_answered(&stand.outside, "192.0.2.2:30080");
        // Userspace mode leaves open what it finds open, for connections that were translated, and guards it as well, whether
        // it takes over from a living process or a dead one.
        let open = || netns::sysctl::get(&stand.node, "net.ipv4.conf.all.route_localnet").unwrap();
        for killed in [false, true] {
            stand.configure(&format!("mode: {mode}\n{EVERYWHERE}"));
            eventually("the way is open", || if open().trim() == "1" { Ok(()) } else { Err(stand.log()) });
            proxy = proxy.filter(|_| !killed);
            stand.configure(&format!("mode: userspace\n{EVERYWHERE}"));
            if killed {
                proxy = Some(stand.start(&["--config", stand.config().to_str().unwrap()]));
            }
            self::mode(&stand, "userspace", "userspace");
            assert!(!knock(7777), "{mode}, {killed}: neighbours are kept from the node's loopback");
            stand.until_answered(&stand.node, "127.0.0.1:30080");
        }
        drop(proxy);
        stand.run(&["--cleanup"]);
        assert_eq!(open().trim(), "0", "{mode}");
    }
}

#[test]
fn cleaned_up_it_leaves_nothing_and_nobody_elses_rules_are_touched() {
    let stand = Stand::new();
    stand.tool("nft add table inet foreign");
    stand.tool("nft add chain inet foreign c { type filter hook input priority 0 ; }");
    stand.tool("nft add rule inet foreign c tcp dport 9 counter drop");
    for tool in ["iptables", "ip6tables"] {
        // So that all of the tools' own chains are there before.
        for (table, chains) in [("nat", NAT_HOOKS), ("filter", FILTER_HOOKS)] {
            for chain in chains {
                stand.tool(&format!("{tool}-nft -t {table} -A {chain} -p tcp --dport 9 -j ACCEPT"));
            }
        }
        stand.tool(&format!("{tool}-nft -t nat -N KUBE-KUBELET-CANARY"));
        stand.tool(&format!("{tool}-nft -t mangle -N KUBE-IPTABLES-HINT"));
    }
    let before = stand.tool("nft list ruleset");
    for mode in ["nftables", "iptables"] {
        stand.configure(&format!("mode: {mode}\n{EVERYWHERE}"));
        let proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
        stand.until_answered(&stand.node, "127.0.0.1:30080");
        drop(proxy);
        assert_ne!(stand.tool("nft list ruleset"), before);
        let ended = stand.run(&["--cleanup"]);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(stand.tool("nft list ruleset"), before, "{mode}");
        assert_eq!(netns::sysctl::get(&stand.node, "net.ipv4.conf.all.route_localnet").unwrap().trim(), "0");
    }
}

/// What other programs on a node might have in their tables, as far as the machine's `nft` and kernel know it.
const STRANGE: &[&str] = &[
    "meta cpu 0 counter",
    "limit rate 10/second burst 5 packets",
    "quota over 10 mbytes",
    "ip daddr . tcp dport { 192.0.2.77 . 1-5 } counter",
    "jhash ip saddr mod 4 seed 0xdead 1 counter",
    "symhash mod 4 1 counter",
    "fib saddr . iif oif missing counter",
    "rt classid 7 counter",
    "tcp option maxseg size 1400 counter",
    "ip option rr exists counter",
    "@th,0,16 7 counter",
    "log prefix \"strange\" level debug limit rate 1/hour",
    "socket transparent 1 counter",
    "osf name unknown counter",
    "ct mark set ct mark or 1",
    "update @seen { ip saddr . tcp dport timeout 5s limit rate 1/second }",
];

#[test]
fn what_cannot_be_is_told_once_and_all_else_is_in_force() {
    let stand = Stand::new();
    stand.tool("nft add table ip strange");
    stand.tool("nft add set ip strange seen { type ipv4_addr . inet_service ; flags dynamic,timeout ; }");
    stand.tool("nft add counter ip strange counted");
    stand.tool("nft add chain ip strange c { type filter hook input priority 10 ; }");
    let taken =
        STRANGE.iter().filter(|rule| stand.tool(&format!("nft add rule ip strange c {rule}")).is_empty()).count();
    assert!(taken >= 8, "{taken} of {} strange rules: {}", STRANGE.len(), stand.tool("nft list ruleset"));
    let before = stand.tool("nft -s -t list table ip strange");
    let name = "n".repeat(63);
    let numbers = || 1..=64_u16;
    let ports =
        |number: u16| serde_json::json!({"name": format!("port-{number}"), "port": 1_000 + number, "targetPort": 8080});
    let all: Vec<_> = numbers().map(ports).collect();
    stand.service(&name, &serde_json::json!({"clusterIP": "10.96.0.12", "ports": all}));
    let ports = |number: u16| serde_json::json!({"name": format!("port-{number}"), "protocol": "TCP", "port": 8080});
    let ready = serde_json::json!({"ready": true});
    stand.api.plant(
        "/registry/discovery.k8s.io/endpointslices/n/long-1",
        &serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "n", "name": "long-1", "uid": "u4", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": numbers().map(ports).collect::<Vec<_>>(),
            "endpoints": [{"addresses": ["no-address"], "nodeName": "here", "conditions": ready},
                          {"addresses": ["10.244.1.5"], "nodeName": "here", "conditions": ready}]}),
    );
    for mode in ["nftables", "iptables"] {
        let told_before = stand.api.told().iter().filter(|reason| *reason == "InvalidEndpointAddress").count();
        stand.configure(&format!("mode: {mode}\n"));
        let proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
        for at in ["10.96.0.12:1001", "10.96.0.12:1064", "10.96.0.9:80"] {
            stand.until_answered(&stand.node, at);
        }
        let told =
            || stand.api.told().iter().filter(|reason| *reason == "InvalidEndpointAddress").count() - told_before;
        eventually("an Event says so", || if told() > 0 { Ok(()) } else { Err(stand.log()) });
        // Another change, and nothing is told again.
        stand.endpoints("web", &[("10.244.1.5", "here", true), ("10.244.1.6", "here", false)]);
        stand.until_answered(&stand.node, "10.96.0.12:1033");
        assert_eq!(told(), 1, "{mode}: {:?}", stand.api.told());
        drop(proxy);
        stand.run(&["--cleanup"]);
        assert_eq!(stand.tool("nft -s -t list table ip strange"), before, "{mode}");
    }
}

/// What a kube-proxy 1.36 leaves (with a chain of older versions' and one of ipvs mode's), beside a kubelet's and a CNI
/// plugin's.
const LEFT: &str = include_str!("left-by-kube-proxy.iptables");

/// Sets of its ipvs mode, which rules of `LEFT` have, and one that belongs to somebody else.
const SETS: [&str; 3] = ["KUBE-CLUSTER-IP", "KUBE-6-LOOP-BACK", "KUBE-SRC-ABCDEFGH"];

/// As `ipset create NAME hash:ip,port` does.
fn make_set(name: &str) {
    const CREATE: MessageType = MessageType { subsystem: Subsystem::Ipset, number: 2 };
    let (protocol, of, kind, revision, family, data) = (1, 2, 3, 4, 5, 7);
    let made = netlink::Socket::netfilter().unwrap().request(CREATE, netlink::message::FLAG_CREATE, 0, |m| {
        m.u8(protocol, 6);
        m.text(of, name);
        m.text(kind, "hash:ip,port");
        m.u8(revision, 1);
        m.u8(family, 2);
        m.nested(data, |_| {});
    });
    made.unwrap();
}

/// The names of all there are.
fn sets() -> Vec<String> {
    let names = std::cell::RefCell::new(Vec::new());
    let look = |name: &str| {
        names.borrow_mut().push(name.to_owned());
        false
    };
    iptables::sets::remove(look).unwrap();
    names.into_inner()
}

#[test]
fn it_takes_over_what_a_kube_proxy_left_and_nothing_else() {
    for mode in ["nftables", "iptables"] {
        let stand = Stand::new();
        stand.node.run(|| SETS.iter().for_each(|name| make_set(name))).unwrap();
        stand.feed("iptables-nft-restore --noflush", LEFT);
        stand.tool("nft add table ip kube-proxy { comment \"rules for kube-proxy\" ; }");
        stand.tool("nft add chain ip kube-proxy c { type filter hook input priority 0 ; }");
        stand.tool("nft add table ip6 kube-proxy");
        stand.configure(&format!("mode: {mode}\n"));
        let config = stand.config();
        // Unasked, it leaves them alone.
        let proxy = stand.start(&["--config", config.to_str().unwrap()]);
        stand.until_answered(&stand.outside, "192.0.2.2:30080");
        let rules = stand.tool("nft list ruleset");
        assert!(rules.contains("table ip kube-proxy") && rules.contains("KUBE-XLB-"), "{rules}");
        drop(proxy);
        let _proxy = stand.start(&["--take-over", "--config", config.to_str().unwrap()]);
        let rules = eventually("they go", || {
            let rules = stand.tool("nft list ruleset");
            let gone = ["kube-proxy", "KUBE-XLB-", "GONEGONE", "KUBE-IPVS-FILTER"];
            let left: Vec<&str> = gone.into_iter().filter(|mark| rules.contains(mark)).collect();
            if left.is_empty() { Ok(rules) } else { Err(format!("{left:?}\n{}", stand.log())) }
        });
        for others in ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "CNI-HOSTPORT-DNAT"] {
            assert!(rules.contains(others), "{mode}: {others} is somebody else's\n{rules}");
        }
        assert_eq!(rules.contains("KUBE-SERVICES"), mode == "iptables", "{rules}");
        stand.until_answered(&stand.outside, "192.0.2.2:30080");
        assert!(!stand.tool("iptables-nft-save -t mangle").contains("KUBE-PROXY-CANARY"));
        eventually("its sets go", || {
            let left = stand.node.run(sets).unwrap();
            if left == [SETS[2]] { Ok(()) } else { Err(format!("{left:?}\n{}", stand.log())) }
        });
    }
}

#[test]
fn what_should_be_is_shown_beside_what_is() {
    let stand = Stand::new();
    stand.configure("mode: nftables\n");
    let config = stand.config();
    let flags = ["--config", config.to_str().unwrap()];
    let dump = |more: &[&str]| {
        let output = stand.run(&[&flags[..], &["dump"], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), output)
    };
    let (code, before, _) = dump(&["n/web"]);
    assert_eq!(code, Some(1), "{before}");
    assert!(before.contains("cluster IP 10.96.0.9:80: forward to 10.244.1.5:8080 (in force: nothing)"), "{before}");
    let planned = stand.run(&[&flags[..], &["--dry-run"]].concat());
    assert!(String::from_utf8_lossy(&planned.stdout).contains("add table ip portolan"));
    assert!(!stand.tool("nft list tables").contains("portolan"), "nothing is made by looking");
    let proxy = stand.start(&flags);
    eventually("both families are in force", || match dump(&["n/web"]) {
        (Some(0), ..) => Ok(()),
        (_, text, _) => Err(text),
    });
    drop(proxy);
    let (code, after, output) = dump(&["n/web"]);
    assert_eq!(code, Some(0), "{after}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        after.contains("node port 30080: forward to 10.244.1.5:8080\n") && !after.contains("in force: "),
        "{after}"
    );
    assert!(!after.contains("n/balanced"), "{after}");
    let (_, json, _) = dump(&["n/web", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["families"][0]["stepsMissing"], 0);
    assert_eq!(json["families"][0]["ports"][0]["frontends"][0]["observed"], "forward to 10.244.1.5:8080");
    assert_eq!(dump(&["n/nobody"]).0, Some(1));
}

#[test]
fn pods_are_told_by_the_link_their_packets_come_in_by() {
    let stand = Stand::new();
    // Who is outside counts as a pod where the link to the outside is named.
    let link = |mode: &str, name: &str| {
        format!("mode: {mode}\ndetectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: {name}}}\n")
    };
    let prefix = |mode: &str, name: &str| {
        format!("mode: {mode}\ndetectLocalMode: InterfaceNamePrefix\ndetectLocal: {{interfaceNamePrefix: {name}}}\n")
    };
    stand.configure(&link("nftables", "pod0"));
    let _proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
    for mode in ["nftables", "iptables"] {
        let seen = |text: String, address: &str| {
            stand.configure(&text);
            eventually(&text, || {
                stand.until_answered(&stand.outside, "10.96.0.9:80");
                let mut stream = stand.connect(&stand.outside, "10.96.0.9:80");
                let mut bytes = [0; 64];
                let mut ask = || stream.write_all(WHO).and_then(|()| stream.read(&mut bytes));
                let read = ask().map_err(|error| error.to_string())?;
                let seen = String::from_utf8_lossy(&bytes[..read]).into_owned();
                if seen == address { Ok(()) } else { Err(format!("{seen}\n{}", stand.log())) }
            });
        };
        seen(link(mode, "pod0"), "10.244.1.1");
        seen(link(mode, "eth0"), "192.0.2.1");
        seen(prefix(mode, "po"), "10.244.1.1");
        seen(prefix(mode, "et"), "192.0.2.1");
        // Read back, the rules are what they should be.
        let config = stand.config();
        let dump = stand.run(&["--config", config.to_str().unwrap(), "dump", "n/web"]);
        assert!(dump.status.success(), "{mode}: {}", String::from_utf8_lossy(&dump.stdout));
    }
}

#[test]
fn a_flow_through_a_relay_that_died_finds_its_way_again() {
    let stand = Stand::new();
    // The kernel asks the newest of equals first: the relay's rules before the tool's chains, for as long as there are any.
    for chain in ["PREROUTING", "OUTPUT"] {
        stand.tool(&format!("iptables-nft -t nat -A {chain} -p tcp --dport 9 -j ACCEPT"));
    }
    for successor in ["iptables", "nftables"] {
        stand.configure("mode: userspace\n");
        let proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
        stand.until_answered(&stand.node, "10.96.0.9:80");
        let udp = stand.node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        udp.connect("10.96.0.9:53".parse::<SocketAddr>().unwrap()).unwrap();
        udp.set_read_timeout(Some(std::time::Duration::from_millis(5))).unwrap();
        let ask = || {
            // With nobody there it is refused.
            let _ = udp.send(b"hello");
            udp.recv(&mut [0; 9]).map(drop).map_err(|error| format!("{error}\n{}", stand.log()))
        };
        eventually("the relay answers", ask);
        drop(proxy);
        stand.configure(&format!("mode: {successor}\n"));
        let proxy = stand.start(&["--config", stand.config().to_str().unwrap()]);
        eventually("the flow is answered again", ask);
        mode(&stand, successor, successor);
        eventually("and goes on", ask);
        drop(proxy);
        stand.run(&["--cleanup"]);
    }
}
