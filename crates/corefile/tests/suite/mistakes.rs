//! Everything that can be wrong, with its place and its words.

use crate::{machine, read_on, wrong};

/// A body of a server block that begins on line 2, and what is said of it behind `/conf/Corefile:`.
#[rustfmt::skip]
const IN_BLOCKS: &[(&str, &str)] = &[
    ("erors", "2:1: there is no plugin \"erors\": is errors meant?"),
    ("nothinglikeit", "2:1: there is no plugin \"nothinglikeit\": remove its lines; if they are a server block, its keys and a brace must be on one line"),
    ("errors\nroute53 x", "3:1: CoreDNS's plugin route53 isn't supported here: remove its lines, or keep CoreDNS for what needs it"),
    ("forward . 192.0.2.1 {\n  max_fail 3\n}", "3:3: forward has no option \"max_fail\": is max_fails meant?"),
    ("health {\n  color red\n}", "3:3: health has no option \"color\": there are lameduck"),
    ("any {\n  color red\n}", "3:3: any has no option \"color\": remove \"color\": there are no options"),
    ("template IN A {\n  expr x\n}", "3:3: CoreDNS's option expr of template isn't supported here: use match: there are no expressions"),
    ("secondary {\n  transfer from 192.0.2.1\n  catalog\n}", "4:3: CoreDNS's option catalog of secondary isn't supported here: name the zones"),
    ("forward . 192.0.2.1 {\n  max_fails\n}", "3:3: max_fails of forward needs a value: write a value after it, on the same line"),
    ("forward .", "2:9: forward needs upstreams: write upstreams after it, on the same line"),
    ("minimal x", "2:9: \"x\" is too much for minimal, which takes nothing: remove \"x\", or put it on a line of its own"),
    ("health :1 :2", "2:11: \":2\" is too much for health, which takes an address: remove \":2\", or put it on a line of its own"),
    ("health 8080", "2:8: \"8080\" of health is not an address with a port, such as :8080 or 127.0.0.1:8080: give an address with a port, such as :8080 or 127.0.0.1:8080"),
    ("bufsize 100", "2:9: \"100\" of bufsize is not a whole number from 512 to 4096: give a whole number from 512 to 4096"),
    ("cache -1", "2:7: \"-1\" of cache is not a whole number from 1: give a whole number from 1"),
    ("health {\n lameduck 5\n}", "3:11: \"5\" of lameduck of health is not a duration such as 500ms, 2s or 1m30s: give a duration such as 500ms, 2s or 1m30s"),
    ("reload 1s", "2:8: \"1s\" of reload is not a duration of 2s or more: give a duration of 2s or more"),
    ("errors {\n consolidate 5m (\n}", "3:17: \"(\" of consolidate of errors is not a regular expression: unclosed group: give a regular expression: unclosed group"),
    ("cache {\n keepttl {\n x\n }\n}", "3:10: cache has a block where it takes none: remove the braces and what is between"),
    ("health {\n lameduck 5s }", "3:14: \"}\" stands where an argument, or a line of its own for the brace is expected: put an argument, or a line of its own for the brace there"),
    ("loop\nloop", "3:1: loop is there a second time in this server block: put everything into one"),
    ("cache {\n serve_stale_policy prefer_positive\n}", "3:2: serve_stale_policy is about serve_stale, which isn't there: add serve_stale, or remove this"),
    ("kubernetes 10.0.0.0/8", "2:12: kubernetes has zones of reverse names only: name the cluster's domain before them"),
    ("kubernetes a {\n namespaces x\n namespace_labels x=y\n}", "5:1: namespaces and namespace_labels exclude each other: keep one of them"),
    ("kubernetes a {\n multicluster b\n}", "4:1: multicluster names b., which isn't one of the plugin's zones: name it after kubernetes, too"),
    ("kubernetes a {\n zonal\n noendpoints\n}", "5:1: zonal needs endpoints, and noendpoints is there: remove one of them"),
    ("forward . 192.0.2.1 {\n max_age 1s\n}", "4:1: max_age is shorter than expire: make it as long, or expire shorter"),
    ("forward . /empty.conf", "2:11: no file of upstreams has any name server: name an address"),
    ("forward . /none", "2:11: \"/none\" of forward can't be read: entity not found: correct the path, or provide the file"),
    ("forward . grpc://192.0.2.1", "2:11: \"grpc://192.0.2.1\" of forward is not an address, a file of name servers or a host name, with a scheme of dns, tls, https or quic: give an address, a file of name servers or a host name, with a scheme of dns, tls, https or quic"),
    ("forward . https://192.0.2.1/dns", "2:11: \"https://192.0.2.1/dns\" of forward is not an upstream without a path, which is always /dns-query: give an upstream without a path, which is always /dns-query"),
    ("forward 10.0.0.0/9 192.0.2.1", "2:9: \"10.0.0.0/9\" of forward is not a zone, or a CIDR of a whole octet (of IPv6: of a whole digit): give a zone, or a CIDR of a whole octet (of IPv6: of a whole digit)"),
    ("forward . tls://192.0.2.1%a {\n tls_servername b\n}", "2:11: \"tls://192.0.2.1%a\" of forward is not an upstream without %NAME, which tls_servername is there for: give an upstream without %NAME, which tls_servername is there for"),
    ("forward . 192.0.2.1 {\n failover NOERROR\n}", "3:11: \"NOERROR\" of failover of forward is not the code of a failure: give the code of a failure"),
    ("tls /tls/cert.pem /none", "2:19: \"/none\" of tls can't be read: entity not found: correct the path, or provide the file"),
    ("tls", "2:1: tls needs a certificate and its key (certificates by ACME aren't supported here): write a certificate and its key (certificates by ACME aren't supported here) after it, on the same line"),
    ("autopath @hosts", "2:10: \"@hosts\" of autopath is not @kubernetes, the only plugin that knows search paths: give @kubernetes, the only plugin that knows search paths"),
    ("hosts {\n tll 5\n}", "3:2: hosts has no option \"tll\": is ttl meant?"),
    ("hosts {\n fallthrough\n 192.0.2.1 a\n}", "4:2: the entry of 192.0.2.1 stands behind fallthrough: put it before"),
    ("hosts {\n fallthrough_unsupported\n}", "4:1: fallthrough_unsupported goes with fallthrough, which isn't there: add fallthrough"),
    ("k8s_external a", "2:1: k8s_external takes Services from kubernetes, which isn't in this server block: add kubernetes"),
    ("file none {\n reload 0s\n}", "2:6: \"none\" of file can't be read: entity not found: correct the path, or provide the file"),
    ("cache a..b", "2:7: \"a..b\" of cache is not a zone such as example.org or 10.0.0.0/8: give a zone such as example.org or 10.0.0.0/8"),
    ("secondary a", "2:11: secondary has no transfer: add a block with transfer from ADDRESS"),
    ("transfer a", "2:10: transfer has no to: add a block with to ADDRESS, or to *"),
    ("acl {\n allow net 10.0.0.0/40\n}", "3:12: \"10.0.0.0/40\" of allow of acl is not an address, a CIDR such as 10.0.0.0/8, or *: give an address, a CIDR such as 10.0.0.0/8, or *"),
    ("acl {\n deny net *\n}", "3:2: acl has no option \"deny\": there are allow, block, filter, drop"),
    ("rewrite name regex (.*)-(.*) {1}{2}{3}", "2:30: \"{1}{2}{3}\" of rewrite is not a name with 2 of the pattern's groups at the most: give a name with 2 of the pattern's groups at the most"),
    ("rewrite nam a b", "2:9: \"nam\" of rewrite is not a kind of rule: name, type, class, edns0, ttl, cname or rcode: give a kind of rule: name, type, class, edns0, ttl, cname or rcode"),
    ("rewrite name suffix a b answer auto answer name x y", "2:51: answer auto and answer name exclude each other: keep one of them"),
    ("template IN A {\n answer \"{{range .X}}\"\n}", "3:9: \"{{range .X}}\" of answer of template is not a template that is supported here: of {{ range .X }} there are .Zone, .Name, .Regex, .Class, .Type, .Remote, .Message.Id, .Question.Name, .Group.NAME, index .Match N, .Meta \"LABEL\": give a template that is supported here: of {{ range .X }} there are .Zone, .Name, .Regex, .Class, .Type, .Remote, .Message.Id, .Question.Name, .Group.NAME, index .Match N, .Meta \"LABEL\""),
    ("log a \"{common}\" {\n class none\n}", "3:8: \"none\" of class of log is not a class: all, success, denial or error: give a class: all, success, denial or error"),
    ("dns64 64:ff9b::/96 {\n translate_all\n}", "3:2: the block of a dns64 with a prefix counts for nothing: put the prefix into it"),
];

/// Whole files.
#[rustfmt::skip]
const FILES: &[(&str, &str)] = &[
    (". {\nerrors", "2:1: the file ends where the brace } of the server block is expected: put the brace } of the server block there"),
    (". {\ncache {\nkeepttl", "3:1: the file ends where the brace } of the plugin's block is expected: put the brace } of the plugin's block there"),
    (". {\nerrors }", "2:8: \"}\" stands where an argument, or a line of its own for the brace is expected: put an argument, or a line of its own for the brace there"),
    ("a, {\n}", "1:4: \"{\" stands where another key (the one before ends with a comma) is expected: put another key (the one before ends with a comma) there"),
    ("a,", "1:1: the file ends where another key is expected: put another key there"),
    ("(a) {\n}\n(a) {\n}", "3:5: the snippet a is there already: rename one of them"),
    ("(a) {\nerrors", "2:1: the file ends where the brace } of the snippet is expected: put the brace } of the snippet there"),
    ("(a) {\n import a\n}", "2:2: imports go on without end: let no snippet and no file import itself, by others neither"),
    ("(a) {\n import b\n}\n(b) {\n import a\n}\n. {\n import a\n}", "5:2: imports go on without end: let no snippet and no file import itself, by others neither"),
    (". {\n import a b\n}", "2:11: import takes one name of a snippet, of a file or of files, but not \"b\" after it: CoreDNS's snippets have no arguments: write a snippet for each case"),
    (". {\n import\n}", "2:2: import needs the name of a snippet or file: write the name of a snippet or file after it, on the same line"),
    (". {\n import nowhere\n}", "2:9: \"/conf/nowhere\" of import can't be read: entity not found: correct the path, or provide the file"),
    (". {\n import /*/*\n}", "2:9: the pattern \"/*/*\" of an import has more than one wildcard of a kind, or a range: keep one * and one ? at the most"),
    ("a..b {\n}", "1:1: \"a..b\" can't be served: the zone is no domain name: keys are [SCHEME://]ZONE[:PORT], where a zone is a name or a CIDR"),
    (".: {\n}", "1:1: \".:\" can't be served: a port is expected after the last colon: keys are [SCHEME://]ZONE[:PORT], where a zone is a name or a CIDR"),
    (".:65536 {\n}", "1:1: \".:65536\" can't be served: ports go from 0 to 65535: keys are [SCHEME://]ZONE[:PORT], where a zone is a name or a CIDR"),
    ("::/8 {\n}", "1:1: \"::/8\" can't be served: a CIDR begins with another digit than 0: keys are [SCHEME://]ZONE[:PORT], where a zone is a name or a CIDR"),
    ("quic://a {\n}", "1:1: quic://a.:853 is served without TLS: the plugin tls isn't in this server block: add tls with a certificate and its key"),
    ("unix://a {\n}", "1:1: \"unix://a\" can't be served: nothing listens on sockets of the file system: keys are [SCHEME://]ZONE[:PORT], where a zone is a name or a CIDR"),
    ("a {\n}\nb A {\n}", "3:3: dns://a.:53 is served already, by the server block of line 1: give one of them another zone, port or address"),
    ("a {\n}\na {\nbind 192.0.2.1\n}", "3:1: dns://a.:53 on 192.0.2.1 is served already, by the server block of line 1: give one of them another zone, port or address"),
];

#[test]
fn every_mistake_is_told_with_its_place_and_how_to_mend_it() {
    let blocks = IN_BLOCKS.iter().map(|(body, expected)| (format!("example. {{\n{body}\n}}\n"), *expected));
    let files = FILES.iter().map(|(text, expected)| ((*text).to_owned(), *expected));
    let mut others = Vec::new();
    for (text, expected) in blocks.chain(files) {
        let told = match read_on(&machine(), &text) {
            Ok(read) => vec![format!("it is read as {read}")],
            Err(_) => wrong(&text),
        };
        if told != [format!("/conf/Corefile:{expected}")] {
            others.push(format!("{text}\n    {}\nwhere this is expected:\n    {expected}\n", told.join("\n    ")));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "a {\n erors\n cache 0\n forward . 192.0.2.1 {\n  max_fails x\n  polcy random\n  expire\n }\n}\nb..c {\n loop 5\n}\n";
    let places: Vec<String> =
        wrong(text).iter().map(|problem| problem.split(": ").next().unwrap().to_owned()).collect();
    let lines = ["2:2", "3:8", "5:13", "6:3", "7:3", "10:1", "11:7"];
    assert_eq!(places, lines.map(|line| format!("/conf/Corefile:{line}")));
}

#[test]
fn mistakes_of_an_imported_file_are_told_with_its_name() {
    let machine = machine().file("/conf/more", "errors\n\nbufsize x\n");
    let problems = read_on(&machine, ". {\n import more\n}\n").unwrap_err().to_string();
    assert!(problems.starts_with("/conf/more:3:9: \"x\" of bufsize"), "{problems}");
}

#[test]
fn a_file_that_imports_itself_has_an_end() {
    let machine = machine().file("/conf/more", "import more\nimport more\n");
    let problems = read_on(&machine, ". {\n import more\n}\n").unwrap_err().to_string();
    assert!(problems.contains("imports go on without end"), "{problems}");
}

#[test]
fn many_blocks_within_a_block_are_as_many_mistakes() {
    const BLOCKS: usize = 100_000;
    let text = format!(". {{\nerrors {{\n{}}}\n}}\n", "{ }\n".repeat(BLOCKS));
    let problems = wrong(&text);
    assert_eq!(problems.len(), BLOCKS, "{:?}", problems.first());
}
