//! Every option of every plugin, by what is printed of it; without options the defaults.

use crate::block;

/// Plugins with their defaults as they are printed (below `cluster.example.` and `in-addr.arpa.`).
const DEFAULTS: &[(&str, &str)] = &[
    ("root /srv", "root /srv"),
    ("cancel", "cancel 5.001s"),
    ("reload", "reload 30s 15s"),
    ("nsid", "nsid"),
    ("bufsize", "bufsize 1232"),
    ("bind 192.0.2.1", "bind 192.0.2.1"),
    ("debug", "debug"),
    ("ready", "ready :8181 {|monitor until-ready|}"),
    ("health", "health :8080 {|lameduck 0s|}"),
    ("prometheus", "prometheus localhost:9153"),
    ("errors", "errors"),
    (
        "log",
        "log . \"{remote}:{port} - {>id} \\\"{type} {class} {name} {proto} {size} {>do} {>bufsize}\\\" {rcode} {>rflags} \
         {rsize} {duration}\" {|class all|}",
    ),
    ("local", "local {|localhost_prefix on|}"),
    ("dns64", "dns64 {|prefix 64:ff9b::/96|}"),
    ("any", "any"),
    ("chaos", "chaos"),
    ("loadbalance", "loadbalance round_robin"),
    ("loadbalance weighted w", "loadbalance weighted w {|reload 30s|}"),
    ("autopath @kubernetes", "autopath cluster.example. in-addr.arpa. @kubernetes"),
    ("acl", "acl cluster.example. in-addr.arpa."),
    (
        "cache",
        "cache cluster.example. in-addr.arpa. {|success 10000 3600 5|denial 10000 1800 5|prefetch 0 1m0s 10%|servfail 5s|}",
    ),
    ("tls /tls/cert.pem /tls/key.pem", "tls /tls/cert.pem /tls/key.pem {|client_auth nocert|}"),
    ("minimal", "minimal"),
    ("template IN A", "template IN A cluster.example. in-addr.arpa. {|match .*|rcode NOERROR|}"),
    ("hosts", "hosts /etc/hosts cluster.example. in-addr.arpa. {|ttl 3600|reload 5s|}"),
    (
        "k8s_external|kubernetes",
        "k8s_external cluster.example. in-addr.arpa. {|apex dns|ttl 5|}|kubernetes cluster.example. in-addr.arpa. \
         {|apiserver_qps 0|apiserver_burst 0|apiserver_max_inflight 0|pods disabled|ttl 5|startup_timeout 5s|}",
    ),
    (
        "kubernetes",
        "kubernetes cluster.example. in-addr.arpa. {|apiserver_qps 0|apiserver_burst 0|apiserver_max_inflight 0|\
         pods disabled|ttl 5|startup_timeout 5s|}",
    ),
    ("file db", "file db cluster.example. in-addr.arpa. {|reload 1m0s|}"),
    ("loop", "loop"),
    (
        "forward . 192.0.2.1",
        "forward . 192.0.2.1:53 {|expire 10s|max_age 0s|max_idle_conns 0|max_fails 2|health_check 500ms domain .|\
         policy random|max_concurrent 0|read_timeout 2s|doh_method POST|}",
    ),
];

/// A directive with its block (`|` for line breaks), and a line that is printed because of it.
#[rustfmt::skip]
const OPTIONS: &[(&str, &str)] = &[
    ("cancel 2s", "cancel 2s"),
    ("reload 10s", "reload 10s 5s"),
    ("reload 1m 0s", "reload 1m0s 0s"),
    ("nsid the first", "nsid the first"),
    ("bufsize 512", "bufsize 512"),
    ("bind 192.0.2.1 {|except eth0|}", "except eth0"),
    ("ready :81 {|monitor continuously|}", "monitor continuously"),
    ("ready 127.0.0.1:81", "ready 127.0.0.1:81 {"),
    ("health [::1]:80 {|lameduck 5s|}", "lameduck 5s"),
    ("health [::1]:80", "health [::1]:80 {"),
    ("prometheus :9153 {|runtime_metrics|}", "runtime_metrics"),
    ("prometheus :9153 {|tls web.yml|}", "tls web.yml"),
    ("errors stdout {|stacktrace|}", "stacktrace"),
    ("errors {|consolidate 5m \"^a b$\" warning show_first|}", "consolidate 5m0s \"^a b$\" warning show_first"),
    ("errors {|consolidate 5m x|}", "consolidate 5m0s x error"),
    ("log a.example b.example \"{name}\" {|class denial error|}", "log a.example. b.example. {name} {"),
    ("log a.example {|class denial success|}", "class success denial"),
    ("log . \"x {combined}\"", "log . \"x {remote}:{port} - {>id} \\\"{type} {class} {name} {proto} {size} {>do} {>bufsize}\\\" {rcode} {>rflags} {rsize} {duration} \\\"{>opcode}\\\"\" {"),
    ("local {|localhost_prefix off|}", "localhost_prefix off"),
    ("dns64 2001:db8::/32", "prefix 2001:db8::/32"),
    ("dns64 {|prefix 2001:db8::1/64|translate_all|allow_ipv4|}", "prefix 2001:db8::/64"),
    ("dns64 {|translate_all|}", "translate_all"),
    ("dns64 {|allow_ipv4|}", "allow_ipv4"),
    ("chaos v b a b", "chaos v a b"),
    ("loadbalance {|prefer 10.1.0.0/8 2001:db8::/32|}", "prefer 10.0.0.0/8 2001:db8::/32"),
    ("loadbalance weighted w {|reload 0s|}", "reload 0s"),
    ("rewrite name A b.example", "rewrite stop name exact a. b.example."),
    ("rewrite continue name suffix .a .b answer auto", "rewrite continue name suffix .a. .b. answer auto"),
    ("rewrite name prefix a b", "rewrite stop name prefix a. b."),
    ("rewrite name substring a b", "rewrite stop name substring a. b."),
    ("rewrite stop {|name regex (.*)[.]a {1}.b|answer name (.*)[.]b {1}.a value (.*)[.]c {1}.d|}", "rewrite stop name regex (.*)[.]a {1}.b. answer name (.*)[.]b {1}.a. answer value (.*)[.]c {1}.d."),
    ("rewrite type any HINFO", "rewrite stop type ANY HINFO"),
    ("rewrite class ch IN", "rewrite stop class CH IN"),
    ("rewrite ttl suffix a.example 30-", "rewrite stop ttl suffix a.example. 30-2147483647"),
    ("rewrite ttl a.example 30", "rewrite stop ttl exact a.example. 30-30"),
    ("rewrite cname regex (.*)[.]A {1}.B", "rewrite stop cname regex (.*)[.]a {1}.b"),
    ("rewrite cname A b", "rewrite stop cname exact a. b."),
    ("rewrite rcode prefix a servfail 0", "rewrite stop rcode prefix a. 2 0"),
    ("rewrite edns0 local set 0xFFee 0x0aBc revert", "rewrite stop edns0 local set 65518 0x0abc revert"),
    ("rewrite edns0 local append 010 text", "rewrite stop edns0 local append 8 text"),
    ("rewrite edns0 local replace 8 {qname}", "rewrite stop edns0 local replace 8 {qname}"),
    ("rewrite edns0 local unset 8", "rewrite stop edns0 local unset 8"),
    ("rewrite edns0 nsid set", "rewrite stop edns0 nsid set"),
    ("rewrite edns0 subnet set 24 56 revert", "rewrite stop edns0 subnet set 24 56 revert"),
    ("rewrite edns0 subnet unset", "rewrite stop edns0 subnet unset"),
    ("autopath a.example /etc/resolv.conf", "autopath a.example. /etc/resolv.conf"),
    ("acl a.example {|Allow net 10.1.1.1 ::1 type A|}", "allow type A net 10.1.1.1/32 ::1/128"),
    ("acl {|block type * net 10.0.0.0/8|}", "block type * net 10.0.0.0/8"),
    ("acl {|filter|}", "filter type * net *"),
    ("acl {|drop type MX|}", "drop type MX net *"),
    ("cache 30 a.example", "success 10000 30 5"),
    ("cache {|success 5 60 0|}", "success 5 60 0"),
    ("cache {|denial 5 60|}", "denial 5 60 5"),
    ("cache {|prefetch 3 2m 20%|}", "prefetch 3 2m0s 20%"),
    ("cache {|serve_stale|}", "serve_stale 1h0m0s immediate 0s 0s"),
    ("cache {|serve_stale 2h verify 100ms 30s 5m|}", "serve_stale 2h0m0s verify 100ms 30s 5m0s"),
    ("cache {|serve_stale 2h Immediate 30s 10s|}", "serve_stale 2h0m0s immediate 30s 10s"),
    ("cache {|serve_stale_policy prefer_positive|serve_stale|}", "serve_stale_policy prefer_positive"),
    ("cache {|servfail 5m|}", "servfail 5m0s"),
    ("cache {|keepttl|}", "keepttl"),
    ("cache {|disable success|}", "disable success ."),
    ("cache {|disable denial A.example b.example|}", "disable denial a.example. b.example."),
    ("header {|Query clear RD AA|}", "query clear rd aa"),
    ("header {|response set ra|}", "response set ra"),
    ("tls /tls/cert.pem /tls/key.pem /tls/ca.pem {|client_auth require_and_verify|}", "client_auth require_and_verify"),
    ("tls /tls/cert.pem /tls/key.pem /tls/ca.pem", "tls /tls/cert.pem /tls/key.pem /tls/ca.pem {"),
    ("template CH TXT a.example {|match ^a b$|}", "match ^a b$"),
    ("template ANY ANY {|answer \"{{ .Name }} 60 IN A {{ .Group.a }}\" x|}", "answer \"{{ .Name }} 60 IN A {{ .Group.a }}\" x"),
    ("template IN A {|additional a|}", "additional a"),
    ("template IN A {|authority a|}", "authority a"),
    ("template IN A {|rcode NXDOMAIN|}", "rcode NXDOMAIN"),
    ("template IN A {|ederror 21 \"not here\"|}", "ederror 21 \"not here\""),
    ("template IN A {|fallthrough|}", "fallthrough ."),
    ("transfer a.example {|to * 192.0.2.1 [::1]:54|}", "to * 192.0.2.1:53 [::1]:54"),
    ("transfer {|to *|source 192.0.2.9|}", "source 192.0.2.9"),
    ("hosts h a.example {|192.0.2.1 A b|ttl 60|}", "192.0.2.1 A b"),
    ("hosts {|ttl 60|}", "ttl 60"),
    ("hosts {|reload 0s|}", "reload 0s"),
    ("hosts {|no_reverse|}", "no_reverse"),
    ("hosts {|fallthrough a.example|}", "fallthrough a.example."),
    ("hosts {|fallthrough|fallthrough_unsupported|}", "fallthrough_unsupported"),
    ("kubernetes|k8s_external a.example {|apex here|}", "apex here"),
    ("kubernetes|k8s_external a.example {|ttl 0|}", "ttl 0"),
    ("kubernetes|k8s_external a.example {|headless|}", "headless"),
    ("kubernetes|k8s_external a.example {|fallthrough b.example|}", "fallthrough b.example."),
    ("kubernetes {|endpoint https://192.0.2.1|}", "endpoint https://192.0.2.1"),
    ("kubernetes {|tls a b c|}", "tls a b c"),
    ("kubernetes {|kubeconfig f context|}", "kubeconfig f context"),
    ("kubernetes {|apiserver_qps 2.5|}", "apiserver_qps 2.5"),
    ("kubernetes {|apiserver_burst 7|}", "apiserver_burst 7"),
    ("kubernetes {|apiserver_max_inflight 7|}", "apiserver_max_inflight 7"),
    ("kubernetes {|namespaces a b|namespaces b c|}", "namespaces a b c"),
    ("kubernetes {|namespace_labels env=prod|}", "namespace_labels env=prod"),
    ("kubernetes {|labels app notin (a, b),!c|}", "labels \"app notin (a, b),!c\""),
    ("kubernetes {|pods verified|}", "pods verified"),
    ("kubernetes {|endpoint_pod_names|}", "endpoint_pod_names"),
    ("kubernetes {|ttl 3600|}", "ttl 3600"),
    ("kubernetes {|noendpoints|}", "noendpoints"),
    ("kubernetes {|zonal|}", "zonal"),
    ("kubernetes {|ignore empty_service|}", "ignore empty_service"),
    ("kubernetes {|fallthrough in-addr.arpa|}", "fallthrough in-addr.arpa."),
    ("kubernetes a.example b.example {|multicluster b.example|}", "multicluster b.example."),
    ("kubernetes {|startup_timeout 1m|}", "startup_timeout 1m0s"),
    ("file db a.example {|reload 0s|}", "reload 0s"),
    ("file db a.example {|reload_by_mtime|}", "reload_by_mtime"),
    ("file db a.example {|fallthrough|}", "fallthrough ."),
    ("secondary a.example {|transfer from 192.0.2.1 [::1]:54|}", "transfer from 192.0.2.1:53 [::1]:54"),
    ("secondary a.example {|transfer from 192.0.2.1|fallthrough b.example|}", "fallthrough b.example."),
    ("forward a.example 192.0.2.1:54 [::1]", "forward a.example. 192.0.2.1:54 [::1]:53 {"),
    ("forward . tls://192.0.2.1%dns.example https://192.0.2.2 quic://[::1]:854 dns.example", "forward . tls://192.0.2.1%dns.example:853 https://192.0.2.2:443 quic://[::1]:854 dns.example:53 {"),
    ("forward . fe80::1%eth0", "forward . [fe80::1%eth0]:53 {"),
    ("forward . 192.0.2.1 {|except a.example 10.0.0.0/15|}", "except a.example. 0.10.in-addr.arpa. 1.10.in-addr.arpa."),
    ("forward . 192.0.2.1 {|force_tcp|}", "force_tcp"),
    ("forward . 192.0.2.1 {|prefer_udp|}", "prefer_udp"),
    ("forward . 192.0.2.1 {|expire 1s|}", "expire 1s"),
    ("forward . 192.0.2.1 {|max_age 1m|}", "max_age 1m0s"),
    ("forward . 192.0.2.1 {|max_idle_conns 9|}", "max_idle_conns 9"),
    ("forward . 192.0.2.1 {|max_fails 0|}", "max_fails 0"),
    ("forward . 192.0.2.1 {|max_connect_attempts 3|}", "max_connect_attempts 3"),
    ("forward . 192.0.2.1 {|health_check 1s no_rec domain A.example|}", "health_check 1s no_rec domain a.example."),
    ("forward . 192.0.2.1 {|policy round_robin|}", "policy round_robin"),
    ("forward . 192.0.2.1 {|max_concurrent 1000|}", "max_concurrent 1000"),
    ("forward . 192.0.2.1 {|read_timeout 3s|}", "read_timeout 3s"),
    ("forward . 192.0.2.1 {|tls /tls/ca.pem|}", "tls /tls/ca.pem"),
    ("forward . 192.0.2.1 {|tls /tls/cert.pem /tls/key.pem /tls/ca.pem|}", "tls /tls/cert.pem /tls/key.pem /tls/ca.pem"),
    ("forward . 192.0.2.1 {|tls_servername dns.example|}", "tls_servername dns.example"),
    ("forward . 192.0.2.1 {|doh_method GET|}", "doh_method GET"),
    ("forward . 192.0.2.1 {|next nxdomain SERVFAIL|}", "next NXDOMAIN SERVFAIL"),
    ("forward . 192.0.2.1 {|next_on_nodata|}", "next_on_nodata"),
    ("forward . 192.0.2.1 {|failover Refused|}", "failover REFUSED"),
    ("forward . 192.0.2.1 {|failfast_all_unhealthy_upstreams|}", "failfast_all_unhealthy_upstreams"),
    ("forward . 192.0.2.1 {|resolver 192.0.2.1 [::1]:54|}", "resolver 192.0.2.1 [::1]:54"),
    ("forward . 192.0.2.1 {|source_address 192.0.2.9|}", "source_address 192.0.2.9"),
];

fn printed(directive: &str) -> Vec<String> {
    let server = block(&directive.replace('|', "\n"));
    let lines: Vec<String> = server.to_string().lines().map(|line| line.trim().to_owned()).collect();
    lines[1..lines.len() - 1].to_vec()
}

#[test]
fn what_is_left_out_has_its_default() {
    for (directive, expected) in DEFAULTS {
        assert_eq!(printed(directive).join("|"), *expected);
    }
}

#[test]
fn every_option_is_read() {
    for (directive, expected) in OPTIONS {
        let lines = printed(directive);
        assert!(lines.iter().any(|line| line == expected), "{directive}\n{}\nlacks {expected}", lines.join("\n"));
    }
}

#[test]
fn every_plugin_is_among_them() {
    let named = |name: &str| {
        let is = |(directive, _): &&(&str, &str)| directive.split([' ', '|']).next() == Some(name);
        DEFAULTS.iter().chain(OPTIONS).any(|case| is(&case))
    };
    let missing: Vec<&str> = corefile::plugin::names().filter(|name| !named(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn settings_are_there_for_programs() {
    let server = block("root /srv\nfile db a.example\nhealth {\nlameduck 5s\n}\nhosts /abs");
    let json = serde_json::to_value(&server).unwrap();
    assert_eq!(json["plugins"][1]["plugin"], "health");
    assert_eq!(json["plugins"][1]["settings"]["lameduck"], "5s");
    assert_eq!(json["keys"][0]["zone"], "cluster.example.");
    assert_eq!((server.path("db").as_str(), server.path("/abs").as_str()), ("/srv/db", "/abs"));
}

#[test]
fn templates_are_taken_apart() {
    use corefile::plugin::Plugin;
    use corefile::plugin::template::{Field, Piece};
    let server = block(
        "template IN A {\nanswer \"{{ .Name }} 60  {{- index .Match 1 -}}  {{.Meta \\\"a/b\\\"}}{{/* c */}}\"\n}",
    );
    let Plugin::Template(templates) = &server.plugins[0] else { panic!("{server}") };
    let pieces = [Piece::Field(Field::Name), Piece::Literal(" 60".into()), Piece::Match(1), Piece::Meta("a/b".into())];
    assert_eq!(templates[0].answer[0].pieces(), pieces);
}

#[test]
fn patterns_are_go_s() {
    use corefile::plugin::Plugin;
    let translated = |pattern: &str| {
        let server = block(&format!("template IN A {{\nmatch {pattern}\n}}"));
        let Plugin::Template(templates) = &server.plugins[0] else { panic!("{server}") };
        templates[0].patterns[0].translated().to_owned()
    };
    assert_eq!(translated(r"^(?P<a>[0-9]*)\.x{2,3}$"), r"^(?P<a>[0-9]*)\.x{2,3}$");
    assert_eq!(translated(r"\Qa.b\E+"), r"a\.b+");
    assert_eq!(translated(r"a{b}"), r"a\{b\}");
    assert_eq!(translated(r"[[a&&b]"), r"[\[a\&\&b]");
    assert_eq!(translated(r"[]a[:digit:]]"), r"[\]a[:digit:]]");
    assert_eq!(translated(r"\101"), r"\x{41}");
}
