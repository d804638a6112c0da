//! The fake and the real tools of both flavours are fed the same, in namespaces made for it: they take and refuse the same,
//! and save the same.

use iptables::{Fake, Family, Flavour, Iptables, Rule, Saved, Table, Tool};
use netns::NetNs;

/// A lock for each network namespace, where the machine has one for all.
const LOCK: &str = "/proc/self/ns/net";

/// What is fed one after the other; some of it is refused, and then changes nothing of its table.
const V4: &[&str] = &[
    "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -d 10.0.0.1/32 -p tcp -m comment --comment \"a 'b' \\\"c\\\" d\\\\e\" -m tcp --dport 80 -j B\n\
     -A B -p tcp -m recent --set --name B -j DNAT --to-destination 10.0.0.2:8080\n-I PREROUTING 1 -j A\nCOMMIT\n",
    "*nat\n:A - [0:0]\n-A A -m statistic --mode random --probability 0.33333333349 -j B\n\
     -A A -m recent --rcheck --seconds 60 --reap --name B -j B\nCOMMIT\n",
    // A chain that a rule leads to, a chain that is not empty, one that is not there.
    "*nat\n:B - [0:0]\n-X B\nCOMMIT\n",
    "*nat\n-X A\nCOMMIT\n",
    "*nat\n-A NOWHERE -j ACCEPT\nCOMMIT\n",
    "*nat\n-A A -j NOWHERE\nCOMMIT\n",
    "*nat\n:THIS-NAME-HAS-TWENTYNINE-BYTES - [0:0]\nCOMMIT\n",
    "*nat\n:THIS-NAME-IS-OF-TWENTYEIGHT- - [0:0]\nCOMMIT\n",
    // The second table is refused, the first one stays.
    "*filter\n:C - [0:0]\n-A C ! -s 10.0.0.0/8 -m mark ! --mark 0x4000/0x4000 -m addrtype --src-type LOCAL -j RETURN\n\
     -A C -p tcp -j REJECT --reject-with tcp-reset\n-A C -j REJECT\nCOMMIT\n*nat\n-A A -j C\nCOMMIT\n",
    "*filter\n-A C -j REJECT --reject-with tcp-reset\nCOMMIT\n",
    "*nat\n-A A -j REJECT\nCOMMIT\n",
    "*filter\n-A C -p tcp -j DNAT --to-destination 10.0.0.1:1\nCOMMIT\n",
    "*nat\n-A A -j DNAT --to-destination 10.0.0.1:1\nCOMMIT\n",
    "*filter\n-A C -j MASQUERADE\nCOMMIT\n",
    "*nat\n-A A -d fd00::1/128 -j RETURN\nCOMMIT\n",
    "*nat\n:P - [0:0]\n-A P -j MARK --set-xmark 0x4000/0x0\n-A P -j MASQUERADE --random-fully\n-A POSTROUTING -j P\nCOMMIT\n",
    "*filter\n:D - [0:0]\n-A C -j D\n-A D -j C\n-A INPUT -j C\nCOMMIT\n",
    "*filter\n-I FORWARD 1 -m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT -j C\n-I FORWARD 2 -j C\nCOMMIT\n",
    "*filter\n-D FORWARD -j C\nCOMMIT\n",
    "*filter\n-D FORWARD -j C\nCOMMIT\n",
    "*filter\n-I FORWARD 9 -j C\nCOMMIT\n",
    "*nat\n-D PREROUTING -j A\n:A - [0:0]\n:B - [0:0]\n-X A\n-X B\nCOMMIT\n",
    "*nat\n-Y A\nCOMMIT\n",
    "*nat\n:E - [0:0]\n-A E -s 0.0.0.0/0 -d 0.0.0.0/0 -j RETURN\n-A E -s 10.0.0.0/8 -d 0.0.0.0/0 -j RETURN\nCOMMIT\n",
];

const V6: &[&str] = &[
    "*nat\n:A - [0:0]\n-A A ! -d ::1/128 -m addrtype --dst-type LOCAL -j RETURN\n\
     -A A -s fd00::/64 -p udp -m recent --set --name A -j DNAT --to-destination [fd00::2]:8080\nCOMMIT\n",
    "*nat\n-A A -d 10.0.0.1/32 -j RETURN\nCOMMIT\n",
    "*nat\n-A A -p udp -j DNAT --to-destination 10.0.0.1:1\nCOMMIT\n",
    "*filter\n:C - [0:0]\n-A C -p sctp -m sctp --dport 9 -j REJECT\n-A INPUT -j C\nCOMMIT\n",
    "*filter\n:C - [0:0]\n-D INPUT -j C\n-X C\nCOMMIT\n",
    "*nat\n:E - [0:0]\n-A E -s ::/0 -d ::/0 -j RETURN\nCOMMIT\n",
];

/// Chains by name with their rules, as values where they are modelled.
fn contents(tool: &mut dyn Iptables) -> Vec<String> {
    let mut lines = Vec::new();
    for table in [Table::Nat, Table::Filter] {
        let start = lines.len();
        tool.save(table, &mut |line| {
            lines.push(match line {
                Saved::Chain { name, builtin } => format!("{table:?} 0 {name} {builtin}"),
                Saved::Rule { chain, spec } => match Rule::parse(spec) {
                    Some(rule) => format!("{table:?} 1 {chain} {rule}"),
                    None => format!("{table:?} 1 {chain} not modelled: {spec}"),
                },
            });
        })
        .unwrap();
        // Whether a table that nobody has written to is shown differs.
        if lines[start..].iter().all(|line| line.contains(" 0 ") && line.ends_with("true")) {
            lines.truncate(start);
        }
        lines[start..].sort_by_key(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "));
    }
    lines
}

fn agree(family: Family, flavour: Flavour, feeds: &[&str]) {
    let namespace = NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
    let mut fake = Fake::new(family);
    namespace
        .run(|| {
            let mut tool = Tool::open(family, flavour).unwrap().locked_by(LOCK);
            for text in feeds {
                let (by_tool, by_fake) = (tool.restore_text(text), fake.restore_text(text));
                assert_eq!(by_tool.is_ok(), by_fake.is_ok(), "{flavour:?}: {by_tool:?} {by_fake:?}\n{text}");
                assert_eq!(contents(&mut tool), contents(&mut fake), "{flavour:?}, after\n{text}");
                for chain in ["A", "C", "NOWHERE"] {
                    let both = [&mut tool as &mut dyn Iptables, &mut fake]
                        .map(|one| one.has_chain(Table::Nat, chain).unwrap());
                    assert_eq!(both[0], both[1], "{flavour:?}: {chain} after\n{text}");
                }
            }
        })
        .unwrap();
}

#[test]
fn the_fake_and_the_tools_on_nf_tables_take_the_same() {
    agree(Family::V4, Flavour::Nft, V4);
    agree(Family::V6, Flavour::Nft, V6);
}

#[test]
fn the_fake_and_the_legacy_tools_take_the_same() {
    agree(Family::V4, Flavour::Legacy, V4);
    agree(Family::V6, Flavour::Legacy, V6);
}
