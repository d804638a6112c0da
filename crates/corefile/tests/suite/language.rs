//! Words, blocks, keys, snippets, imports, variables.

use corefile::plugin::Plugin;

use crate::{block, machine, names, read, read_on};

/// What `chaos` was given, which takes any words.
#[track_caller]
fn words(line: &str) -> Vec<String> {
    match &block(line).plugins[..] {
        [Plugin::Chaos(chaos)] => chaos.version.iter().chain(&chaos.authors).cloned().collect(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn keys(keys: &str) -> Vec<String> {
    read(&format!("{keys} {{\n tls /tls/cert.pem /tls/key.pem\n}}\n")).servers[0]
        .keys
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn words_are_split_as_coredns_splits_them() {
    assert_eq!(words("chaos a b\tc"), ["a", "b", "c"]);
    assert_eq!(words(r#"chaos "a b" "" "c \"d\" \e \\f""#), ["a b", "", r#"c "d" \e \\f"#]);
    assert_eq!(words("chaos \"a\nb\" c"), ["a\nb", "c"], "a quoted line break ends no line");
    assert_eq!(words(r#"chaos a"b c"d"#), ["a\"b", "c\"d"], "a quote within a word is a character");
    assert_eq!(words("chaos a # b c"), ["a"]);
    assert_eq!(words("chaos a#b c"), ["a", "c"], "a comment within a word ends at white space");
    assert_eq!(words("chaos a\r b\r"), ["a", "b"]);
    assert_eq!(words("chaos a\\ b"), ["a\\", "b"], "a backslash continues no line and escapes nothing");
}

#[test]
fn a_byte_order_mark_and_an_unended_quote_are_forgiven() {
    let corefile = read("\u{feff}.\nchaos \"a b\n");
    assert_eq!(corefile.to_string(), "dns://.:53 {\n    chaos \"a b\n\"\n}\n");
    let warning = "/conf/Corefile:2:7: nothing ends the quoted word that begins here: put a quote at its end";
    assert_eq!(corefile.warnings[0].to_string(), warning);
}

#[test]
fn blocks_may_lack_braces_and_keys_may_be_many() {
    assert_eq!(names(&read(".\nerrors\nlog\n").servers[0]), ["errors", "log"]);
    let corefile = read("a.example, b.example\n{\n errors\n}\nc.example,\nd.example {\n log\n}");
    let zones: Vec<Vec<&str>> =
        corefile.servers.iter().map(|s| s.keys.iter().map(|k| k.zone.as_str()).collect()).collect();
    assert_eq!(zones, [["a.example.", "b.example."], ["c.example.", "d.example."]]);
    assert_eq!(names(&read(". {\n cache {\n keepttl\n }\n").servers[0]), ["cache"], "the last brace may be missing");
    assert!(read("# nothing\n").servers.is_empty());
}

#[test]
fn plugins_are_asked_in_one_order_whatever_the_file_says() {
    let server = block("forward . 192.0.2.1\ncache\nerrors\nforward b.example 192.0.2.2\nkubernetes");
    assert_eq!(names(&server), ["errors", "cache", "kubernetes", "forward"]);
    let Some(Plugin::Forward(forwards)) = server.plugins.last() else { panic!("{server}") };
    assert_eq!(forwards.iter().map(|f| f.from.as_str()).collect::<Vec<_>>(), [".", "b.example."]);
}

#[test]
fn keys_have_schemes_ports_and_networks() {
    assert_eq!(keys("Example.ORG"), ["dns://example.org.:53"]);
    assert_eq!(keys(".:1053 example.org.:53"), ["dns://.:1053", "dns://example.org.:53"]);
    let schemes = "tls://a https://a grpc://a quic://a https3://a tls://a:8853";
    let read = ["tls://a.:853", "https://a.:443", "grpc://a.:443", "quic://a.:853", "https3://a.:443", "tls://a.:8853"];
    assert_eq!(keys(schemes), read);
    assert_eq!(keys("10.0.0.0/8:5353"), ["dns://10.in-addr.arpa.:5353"]);
    assert_eq!(keys("192.0.2.9/24"), ["dns://2.0.192.in-addr.arpa.:53"]);
    assert_eq!(keys("10.4.0.0/15"), ["dns://4.10.in-addr.arpa.:53", "dns://5.10.in-addr.arpa.:53"]);
    assert_eq!(keys("2001:db8::/32"), ["dns://8.b.d.0.1.0.0.2.ip6.arpa.:53"]);
    assert_eq!(keys("2001:db8::/31").len(), 2);
    assert_eq!(keys("0.0.0.0/0"), ["dns://in-addr.arpa.:53"]);
}

#[test]
fn snippets_are_put_where_they_are_imported() {
    let text = "(base) {\n errors\n import more\n}\n(more) {\n log\n}\n(opts) {\n max_fails 7\n}\n\
        a {\n import base\n forward . 192.0.2.1 {\n  import opts\n  policy sequential\n }\n cache\n}\nb {\n import more\n}\n";
    let corefile = read(text);
    assert_eq!(names(&corefile.servers[0]), ["errors", "log", "cache", "forward"]);
    assert_eq!(names(&corefile.servers[1]), ["log"]);
    let printed = corefile.to_string();
    assert!(printed.contains("max_fails 7\n") && printed.contains("policy sequential\n"), "{printed}");
}

#[test]
fn files_are_imported_from_where_the_file_is() {
    let machine = machine()
        .file("/conf/zones/b.conf", "b.example {\n import ../parts/one\n}\n")
        .file("/conf/zones/a.conf", "a.example {\n errors\n}\n")
        .file("/conf/zones/../parts/one", "log\n")
        .file("/other/c.conf", "c.example {\n any\n}\n");
    let corefile = read_on(&machine, "import zones/*.conf\nimport /other/?.conf\n").unwrap();
    let zones: Vec<&str> = corefile.servers.iter().map(|server| server.keys[0].zone.as_str()).collect();
    assert_eq!(zones, ["a.example.", "b.example.", "c.example."]);
    assert_eq!(names(&corefile.servers[1]), ["log"]);
}

#[test]
fn variables_are_replaced_in_keys_names_and_arguments() {
    let corefile = read("{$DOMAIN} {\n chaos {$TWO} {%DOMAIN%}-x {$NONE} y{$NESTED}\n {$NONE}errors\n}\n");
    assert_eq!(corefile.servers[0].keys[0].to_string(), "dns://cluster.example.:53");
    let Plugin::Chaos(chaos) = &corefile.servers[0].plugins[1] else { panic!("{corefile}") };
    assert_eq!(chaos.version.as_deref(), Some("first second"), "a value is one word");
    assert_eq!(chaos.authors, ["", "cluster.example-x", "ycluster.example"]);
    assert_eq!(names(&corefile.servers[0])[0], "errors");
    assert_eq!(words("chaos {$} {$open"), ["{$}", "{$open"], "what is no reference stays");
    assert!(words("chaos {$ITSELF}")[0].len() < 2_000_000, "a value that names itself has an end");
}

#[test]
fn who_listens_where_is_known() {
    let corefile = read(
        "a.example {\n bind 192.0.2.1 eth0 {\n  except 192.0.2.9\n }\n}\nb.example:53 tls://b.example {\n errors\n}\n",
    );
    let listeners: Vec<String> = corefile.listeners().iter().map(|l| format!("{:?} {}", l.host, l.port)).collect();
    assert_eq!(listeners, ["Some(\"192.0.2.1\") 53", "Some(\"eth0\") 53", "None 53", "None 853"]);
    assert_eq!(corefile::parse("f", "a {\n}", &machine(), 1053).unwrap().servers[0].keys[0].port, 1053);
}

#[test]
fn what_counts_for_nothing_is_told() {
    let warnings = |text: &str| -> Vec<String> { read(text).warnings.iter().map(ToString::to_string).collect() };
    assert_eq!(
        warnings(".:53 {\n chaos x\n cache 30 a..b c\n chaos y\n}\n"),
        [
            "/conf/Corefile:4:2: what comes after the first chaos is left out, as CoreDNS does: remove it",
            "/conf/Corefile:3:11: \"a..b\" of cache is left out, as CoreDNS does: remove it",
        ]
    );
    let missing =
        "/conf/Corefile:2:8: \"/none\" of hosts can't be read: entity not found: correct the path, or provide the file";
    assert_eq!(warnings(". {\n hosts /none\n}\n"), [missing]);
    let nothing = "/conf/Corefile:1:8: no file is named by \"/none/*\", so nothing is imported: \
        that is no error: remove the line if none is to come";
    assert_eq!(warnings("import /none/*\n. {\n}\n"), [nothing]);
}
