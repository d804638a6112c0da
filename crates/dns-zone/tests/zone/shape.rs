//! What the specification has: a test for each of its rows, with the edges of each.

use super::*;

#[test]
fn the_schema_version_is_told() {
    let cluster = Cluster::new();
    cluster.has("dns-version.cluster.local", RecordType::TXT, ["1.1.0"]);
    assert_eq!(cluster.ask("dns-version.cluster.local", RecordType::TXT).answers[0].ttl, 28_800);
    // It exists, whatever is asked for.
    cluster.lacks("dns-version.cluster.local", RecordType::A);
}

#[test]
fn a_service_has_its_addresses_by_family_and_none_of_another() {
    let cluster = Cluster::new();
    let message = cluster.ask(WEB, RecordType::A);
    assert_eq!(data(&message), set(["10.96.0.7"]));
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    cluster.has(WEB, RecordType::AAAA, ["fd00::7"]);
    for other in [RecordType::MX, RecordType::TXT, RecordType::CNAME, RecordType::ANY, RecordType::Unknown(65280)] {
        cluster.lacks(WEB, other);
    }
    // Of a single family, the other is no reason to deny the name.
    cluster.lacks("idle.default.svc.cluster.local", RecordType::AAAA);
}

#[test]
fn a_headless_service_has_exactly_its_ready_endpoints() {
    let mut cluster = Cluster::new();
    cluster.has(DB, RecordType::A, ["10.244.0.2", "10.244.0.3"]);
    cluster.has(DB, RecordType::AAAA, ["fd00:1::2"]);
    cluster.denies("empty.default.svc.cluster.local");
    // Two slices may have an endpoint for a moment.
    cluster.slice("db-3", "db", &json!(null), json!([{"addresses": ["10.244.0.2", "10.244.0.12"]}]));
    assert_eq!(cluster.ask(DB, RecordType::A).answers.len(), 3);
    // publishNotReadyAddresses is in the slices already, as readiness; serving and terminating don't count.
    cluster.slice(
        "db-1",
        "db",
        &json!(null),
        json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": true,
        "serving": false, "terminating": true}}]),
    );
    cluster.slice("db-3", "db", &json!(null), json!([]));
    cluster.has(DB, RecordType::A, ["10.244.0.2"]);
}

#[test]
fn endpoints_have_names_below_their_service() {
    let mut cluster = Cluster::new();
    cluster.has(&format!("db-0.{DB}"), RecordType::A, ["10.244.0.2"]);
    cluster.has(&format!("DB-0.{DB}"), RecordType::AAAA, ["fd00:1::2"]);
    cluster.has(&format!("10-244-0-3.{DB}"), RecordType::A, ["10.244.0.3"]);
    cluster.lacks(&format!("10-244-0-3.{DB}"), RecordType::AAAA);
    // Who has a hostname isn't called after its address.
    cluster.denies(&format!("10-244-0-2.{DB}"));
    cluster.denies(&format!("10-244-0-4.{DB}"));
    cluster.has(&format!("10-244-0-9.{WEB}"), RecordType::A, ["10.244.0.9"]);
    let v6 = json!([{"addresses": ["2001:db8::"]}, {"addresses": ["2001:db8:0:0:1::1"]}]);
    cluster.slice("db-2", "db", &json!(null), v6);
    cluster.has(&format!("2001-db8--0.{DB}"), RecordType::AAAA, ["2001:db8::"]);
    cluster.has(&format!("2001-db8--1-0-0-1.{DB}"), RecordType::AAAA, ["2001:db8::1:0:0:1"]);
    // Another spelling of an address is no name.
    cluster.denies(&format!("2001-0db8--0.{DB}"));
    cluster.denies(&format!("a.b.c.{DB}"));
}

#[test]
fn srv_gives_named_ports_and_targets_with_their_addresses() {
    let cluster = Cluster::new();
    let message = cluster.ask(&format!("_http._tcp.{WEB}"), RecordType::SRV);
    // Shares by port and address, as CoreDNS has them.
    assert_eq!(data(&message), set(["0 50 80 web.default.svc.cluster.local."]));
    let glue = set(["web.default.svc.cluster.local. A 10.96.0.7", "web.default.svc.cluster.local. AAAA fd00::7"]);
    assert_eq!(records(&message.additionals), glue);
    let headless = cluster.ask(&format!("_SQL._Tcp.{DB}"), RecordType::SRV);
    let targets =
        set(["0 33 5432 db-0.db.default.svc.cluster.local.", "0 33 5432 10-244-0-3.db.default.svc.cluster.local."]);
    assert_eq!((data(&headless), headless.answers.len()), (targets, 2));
    assert_eq!(headless.additionals.len(), 3);
    // The Service's own name stands for every port, an endpoint's for those it has.
    let every = set(["0 25 80 web.default.svc.cluster.local.", "0 25 53 web.default.svc.cluster.local."]);
    assert_eq!(data(&cluster.ask(WEB, RecordType::SRV)), every);
    let one = set(["0 50 5432 db-0.db.default.svc.cluster.local."]);
    assert_eq!(data(&cluster.ask(&format!("db-0.{DB}"), RecordType::SRV)), one);
    cluster.has(&format!("_http._tcp.{WEB}"), RecordType::A, ["10.96.0.7"]);
    for none in ["_http._udp", "_nope._tcp", "_http._quic", "_._tcp", "_80._tcp"] {
        cluster.denies(&format!("{none}.{WEB}"));
    }
}

#[test]
fn a_port_of_a_headless_service_is_that_of_the_endpoints_that_have_it() {
    let mut cluster = Cluster::new();
    let metrics = json!([{"name": "metrics", "port": 9100}, {"name": "any"}]);
    cluster.slice("db-9", "db", &metrics, json!([{"addresses": ["10.244.0.7"]}]));
    cluster.has(&format!("_metrics._tcp.{DB}"), RecordType::A, ["10.244.0.7"]);
    cluster.has(
        &format!("_metrics._tcp.{DB}"),
        RecordType::SRV,
        ["0 100 9100 10-244-0-7.db.default.svc.cluster.local."],
    );
    assert_eq!(cluster.ask(&format!("_sql._tcp.{DB}"), RecordType::SRV).answers.len(), 2);
    // A port of any number can't be said in a record.
    cluster.lacks(&format!("_any._tcp.{DB}"), RecordType::SRV);
    cluster.slice("empty-1", "empty", &json!(null), json!([{"addresses": ["10.244.0.8"]}]));
    cluster.has("empty.default.svc.cluster.local", RecordType::A, ["10.244.0.8"]);
    cluster.lacks("empty.default.svc.cluster.local", RecordType::SRV);
}

#[test]
fn reverse_names_lead_back() {
    let mut cluster = Cluster::new();
    cluster.has("7.0.96.10.in-addr.arpa", RecordType::PTR, ["web.default.svc.cluster.local."]);
    cluster.has("2.0.244.10.in-addr.arpa", RecordType::PTR, ["db-0.db.default.svc.cluster.local."]);
    cluster.has("9.0.244.10.IN-ADDR.arpa", RecordType::PTR, ["10-244-0-9.web.default.svc.cluster.local."]);
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    cluster.has(v6, RecordType::PTR, ["web.default.svc.cluster.local."]);
    for none in ["4.0.244.10", "99.0.244.10"] {
        cluster.negative(&format!("{none}.in-addr.arpa"), RecordType::PTR, ResponseCode::NXDomain);
    }
    // One for each Service that has the endpoint.
    cluster.slice("web-2", "web", &json!(null), json!([{"addresses": ["10.244.0.2"]}]));
    let both = ["db-0.db.default.svc.cluster.local.", "10-244-0-2.web.default.svc.cluster.local."];
    cluster.has("2.0.244.10.in-addr.arpa", RecordType::PTR, both);
    // A ClusterIP is its Service's alone, whatever somebody's slice says.
    cluster.slice("web-3", "db", &json!(null), json!([{"addresses": ["10.96.0.7"]}]));
    cluster.has("7.0.96.10.in-addr.arpa", RecordType::PTR, ["web.default.svc.cluster.local."]);
    assert_eq!(cluster.answer("1.1.168.192.in-addr.arpa", RecordType::PTR), Answer::Forward);
}

#[test]
fn pods_have_names_by_their_address() {
    let cluster = Cluster::new();
    cluster.has("10-1-2-3.default.pod.cluster.local", RecordType::A, ["10.1.2.3"]);
    cluster.lacks("10-1-2-3.default.pod.cluster.local", RecordType::AAAA);
    cluster.has("2001-db8--1.default.pod.cluster.local", RecordType::AAAA, ["2001:db8::1"]);
    cluster.lacks("2001-db8--1.default.pod.cluster.local", RecordType::A);
    for none in ["1-2-3.default", "x.default", "1-2-3-4.nope", "1-2-3-400.default", "x.1-2-3-4.default"] {
        cluster.denies(&format!("{none}.pod.cluster.local"));
    }
}

#[test]
fn the_apex_has_a_start_of_authority_and_name_servers() {
    let mut cluster = Cluster::new();
    let soa = set(["ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"]);
    assert_eq!(data(&cluster.ask("cluster.local", RecordType::SOA)), soa);
    cluster.lacks("cluster.local", RecordType::A);
    cluster.has("cluster.local", RecordType::NS, ["ns.dns.cluster.local."]);
    cluster.has("ns.dns.cluster.local", RecordType::A, ["172.30.0.11"]);
    // A Service that leads to this server is its name.
    cluster.service("dns", json!({"clusterIPs": ["10.96.0.10", "fd00::10"], "ports": [{"port": 53}]}));
    cluster.slice("dns-1", "dns", &json!(null), json!([{"addresses": ["172.30.0.11"]}]));
    let message = cluster.ask("cluster.local", RecordType::NS);
    assert_eq!(data(&message), set(["dns.default.svc.cluster.local."]));
    assert_eq!(message.additionals.len(), 2);
    cluster.has("ns.dns.cluster.local", RecordType::AAAA, ["fd00::10"]);
    // (h) The same server of a reverse zone, by the name that it has.
    cluster.has("in-addr.arpa", RecordType::NS, ["dns.default.svc.cluster.local."]);
    cluster.service("dns", json!({"clusterIPs": ["None"], "ports": []}));
    cluster.has("cluster.local", RecordType::NS, ["172-30-0-11.dns.default.svc.cluster.local."]);
}

#[test]
fn negative_answers_live_no_longer_than_positive_ones() {
    let mut cluster = Cluster::new();
    for (ttl, negative) in [(0, 0), (5, 5), (3600, 300)] {
        cluster.config.ttl = ttl;
        assert_eq!(cluster.ask(WEB, RecordType::A).answers[0].ttl, ttl);
        let denied = cluster.ask("nope.default.svc.cluster.local", RecordType::A);
        let RData::SOA(soa) = &denied.authorities[0].data else { panic!("no SOA") };
        assert_eq!((denied.authorities[0].ttl, soa.minimum), (negative, ttl));
    }
}

#[test]
fn names_that_exist_without_records_are_not_denied() {
    let mut cluster = Cluster::new();
    for exists in [
        "cluster.local",
        "svc.cluster.local",
        "default.svc.cluster.local",
        "pod.cluster.local",
        "kube-system.pod.cluster.local",
    ] {
        cluster.lacks(exists, RecordType::A);
        cluster.lacks(exists, RecordType::SRV);
    }
    // (b) These have children, or records of another type.
    for exists in [
        "dns.cluster.local",
        "dns-version.cluster.local",
        &format!("_tcp.{WEB}"),
        &format!("_udp.{WEB}"),
        &format!("_tcp.{DB}"),
    ] {
        cluster.lacks(exists, RecordType::A);
    }
    cluster.lacks("7.0.96.10.in-addr.arpa", RecordType::A);
    cluster.config.fallthrough = dns_zone::Fallthrough::Never;
    for exists in ["10.in-addr.arpa", "96.10.in-addr.arpa", "0.d.f.ip6.arpa", "in-addr.arpa", "ip6.arpa"] {
        cluster.lacks(exists, RecordType::PTR);
    }
    for missing in [
        "11.in-addr.arpa",
        "1.96.10.in-addr.arpa",
        "e.f.ip6.arpa",
        "x.10.in-addr.arpa",
        "1.7.0.96.10.in-addr.arpa",
        "nope.cluster.local",
        "nope.svc.cluster.local",
        "nope.default.svc.cluster.local",
        "nope.pod.cluster.local",
        "web.nope.svc.cluster.local",
        "x.dns.cluster.local",
        "hostmaster.cluster.local",
    ] {
        cluster.denies(missing);
    }
    for missing in ["_sctp", "_quic", "_", "x.y.z", "_http._tcp.x"] {
        cluster.denies(&format!("{missing}.{WEB}"));
    }
    // A protocol without a named port has no children.
    cluster.denies("_tcp.idle.default.svc.cluster.local");
}

#[test]
fn a_port_needs_its_underscores() {
    // (c) CoreDNS takes each of these for one.
    let cluster = Cluster::new();
    for none in ["http.tcp", "_http.tcp", "http._tcp"] {
        cluster.denies(&format!("{none}.{WEB}"));
    }
}
