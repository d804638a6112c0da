//! What is written without the tools is what the tools would have written: they print it alike, they find and delete it, and
//! the kernel has the same matches and targets.

use std::collections::BTreeMap;
use std::sync::Arc;

use iptables::{
    Chance, Error, Family, Flavour, Iptables, Jumps, Recent, Reject, Rule, Saved, States, Table, Target, Tool,
    Transaction,
};
use netns::NetNs;
use nft::{Expr, Nft};

/// Any numbers, the same with each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    fn net(&mut self, family: Family) -> String {
        let [a, b] = [self.below(250) + 1, self.below(250) + 1];
        match family {
            Family::V4 => format!("10.{a}.{b}.0/{}", self.one_of(&[8, 12, 16, 22, 24, 31, 32])),
            Family::V6 => format!("fd00:{a:x}:{b:x}::/{}", self.one_of(&[7, 8, 32, 61, 64, 127, 128])),
        }
    }

    fn socket(&mut self, family: Family) -> String {
        let [a, port] = [self.below(250) + 1, self.below(65_535) + 1];
        match family {
            Family::V4 => format!("10.9.8.{a}:{port}"),
            Family::V6 => format!("[fd00::{a:x}]:{port}"),
        }
    }

    /// With anything that can be said of a packet.
    fn rule(&mut self, family: Family, table: Table) -> Rule {
        let mut rule = Rule::new();
        if self.one_in(3) {
            let net = self.net(family).parse().unwrap();
            rule = if self.one_in(3) { rule.not_source(net) } else { rule.source(net) };
        }
        if self.one_in(2) {
            let net = self.net(family).parse().unwrap();
            rule = if self.one_in(3) { rule.not_destination(net) } else { rule.destination(net) };
        }
        if self.one_in(5) {
            let link = self.one_of(&["cni0", "veth+", "a-link-of-15byt"]);
            rule = if self.one_in(2) { rule.not_input(link) } else { rule.input(link) };
        }
        if self.one_in(2) {
            let protocol = self.one_of(&[6, 17, 132]);
            let port = self.below(65_536) as u16;
            rule = if self.one_in(3) { rule.protocol(protocol) } else { rule.port(protocol, port) };
        }
        if self.one_in(2) {
            let long = "x".repeat(self.below(255) as usize + 1);
            rule = rule.comment(self.one_of(&["one", "ns/svc:p cluster IP", "it's \"q\" \\ 100% ->", "naïve", &long]));
        }
        let rule = self.matches(rule);
        self.target(rule, family, table)
    }

    fn matches(&mut self, mut rule: Rule) -> Rule {
        if self.one_in(6) {
            rule = if self.one_in(2) { rule.source_is_local() } else { rule.destination_is_local() };
        }
        if self.one_in(5) {
            let one = || [States::INVALID, States::NEW, States::RELATED, States::ESTABLISHED, States::UNTRACKED];
            let states = self.one_of(&one()).and(self.one_of(&[States::SNAT, States::DNAT, States::NEW]));
            rule = if self.one_in(2) { rule.state(states) } else { rule.not_state(States::DNAT).state(States::NEW) };
        }
        if self.one_in(6) {
            let (value, mask) = self.one_of(&[(1 << 14, 1 << 14), (3, 0xff), (0xdead_beef, u32::MAX)]);
            rule = if self.one_in(2) { rule.mark(value, mask) } else { rule.not_mark(value, mask) };
        }
        if self.one_in(4) {
            let list: Arc<str> = Arc::from(self.one_of(&["KUBE-SEP-AAAAAAAAAAAAAAAA", "1234567"]));
            let seconds = self.below(86_400) as u32 + 1;
            rule = rule.recent(&list, self.one_of(&[Recent::Remember, Recent::Within { seconds }]));
        }
        if self.one_in(4) {
            rule = rule.chance(Chance::one_in(self.below(20_000) as usize + 1));
        }
        rule
    }

    fn target(&mut self, rule: Rule, family: Family, table: Table) -> Rule {
        let tcp = rule.to_string().contains("-p tcp");
        let has_protocol = ["tcp", "udp", "sctp"].iter().any(|name| rule.to_string().contains(&format!("-p {name}")));
        match self.below(8) {
            0 => rule,
            1 => rule.then(Target::Accept),
            2 => rule.then(Target::Return),
            3 if table == Table::Filter => rule.then(Target::Drop),
            4 => rule.then(Target::SetMark { value: 0x4000, mask: self.one_of(&[0, 0x4000, u32::MAX]) }),
            5 if table == Table::Filter => {
                rule.then(Target::Reject(if tcp { Reject::TcpReset } else { Reject::PortUnreachable }))
            }
            6 if table == Table::Nat && has_protocol => rule.then(Target::Dnat(self.socket(family).parse().unwrap())),
            7 if table == Table::Nat => rule.then(Target::Masquerade { fully_random: self.one_in(2) }),
            _ => rule.jump("OTHER"),
        }
    }

    fn transaction(&mut self, family: Family, table: Table) -> Transaction {
        let mut transaction = Transaction::new(table);
        for chain in ["OTHER", "ONE", "TWO"] {
            let rules = if chain == "OTHER" { 0 } else { 100 };
            transaction.replace.push((chain.into(), (0..rules).map(|_| self.rule(family, table)).collect()));
        }
        transaction
    }
}

fn inside<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root").run(act).unwrap()
}

/// A tool in a namespace that has the kernel's chains.
fn tool(family: Family) -> Tool {
    let mut tool = Tool::open(family, Flavour::Nft).unwrap();
    tool.restore_text("*nat\n-A OUTPUT -j ACCEPT\nCOMMIT\n*filter\n-A OUTPUT -j ACCEPT\nCOMMIT\n").unwrap();
    tool
}

/// All chains with their rules as they are printed.
fn saved(tool: &mut Tool, table: Table) -> BTreeMap<String, Vec<String>> {
    let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    tool.save(table, &mut |line| match line {
        Saved::Chain { name, .. } => drop(chains.entry(name.to_owned()).or_default()),
        Saved::Rule { chain, spec } => chains.entry(chain.to_owned()).or_default().push(spec.to_owned()),
    })
    .unwrap();
    chains
}

fn dumped(family: Family, table: Table) -> nft::Ruleset {
    let family = if family == Family::V4 { nft::Family::Ip } else { nft::Family::Ip6 };
    nft::Kernel::open().unwrap().dump(&nft::Table::new(family, table.name())).unwrap().unwrap()
}

/// Of a rule what all versions of the tools write alike: addresses and protocols are compared in another order, and prefixes by
/// other expressions, in some.
fn in_common(kernel: &nft::Ruleset, chain: &str, at: usize) -> Vec<Expr> {
    let exprs = kernel.chains[chain].rules[at].exprs.iter();
    exprs.filter(|expr| matches!(expr, Expr::Unknown { .. } | Expr::Counter(_) | Expr::Verdict(_))).cloned().collect()
}

/// Whether some versions compare the rule's ports or marks by nf_tables' own expressions.
fn differs(rule: &Rule) -> bool {
    ["-m tcp ", "-m udp ", "-m mark "].iter().any(|words| rule.to_string().contains(words))
}

#[test]
fn what_is_written_without_the_tools_is_what_they_write() {
    for (family, seed) in [(Family::V4, 0x9e37_79b9_7f4a_7c15), (Family::V6, 0xbf58_476d_1ce4_e5b9)] {
        for table in [Table::Nat, Table::Filter] {
            let transaction = Random(seed).transaction(family, table);
            let (native, native_kernel) = inside(|| {
                let mut tool = tool(family);
                tool.restore(std::slice::from_ref(&transaction)).unwrap();
                assert_eq!(tool.written_natively(), 1, "{family:?} {table:?}");
                (saved(&mut tool, table), dumped(family, table))
            });
            let (by_tool, by_tool_kernel) = inside(|| {
                let mut tool = tool(family);
                tool.restore_text(&transaction.to_string()).unwrap();
                (saved(&mut tool, table), dumped(family, table))
            });
            for (chain, rules) in &transaction.replace {
                for (at, rule) in rules.iter().enumerate() {
                    assert_eq!(native[&**chain][at], by_tool[&**chain][at], "{rule}");
                    assert_eq!(Rule::parse(&native[&**chain][at]).as_ref(), Some(rule));
                    if !differs(rule) {
                        let both = [&native_kernel, &by_tool_kernel].map(|kernel| in_common(kernel, chain, at));
                        assert_eq!(both[0], both[1], "{rule}");
                    }
                }
            }
            assert_eq!(native, by_tool, "{family:?} {table:?}");
        }
    }
}

#[test]
fn the_tools_delete_what_was_written_without_them() {
    for family in [Family::V4, Family::V6] {
        let transaction = Random(0x1234_5678_9abc_def1).transaction(family, Table::Nat);
        inside(|| {
            let mut tool = tool(family);
            tool.restore(std::slice::from_ref(&transaction)).unwrap();
            assert_eq!(tool.written_natively(), 1);
            let mut text = "*nat\n".to_owned();
            for (chain, rules) in &transaction.replace {
                text.extend(rules.iter().map(|rule| format!("-D {chain} {rule}\n")));
            }
            tool.restore_text(&(text + "COMMIT\n")).unwrap();
            assert!(saved(&mut tool, Table::Nat).values().map(Vec::len).sum::<usize>() == 1);
            tool.restore_text("*nat\n-X ONE\n-X TWO\n-X OTHER\nCOMMIT\n").unwrap();
        });
    }
}

#[test]
fn the_kernels_chains_are_made_as_the_tools_make_them_and_led_to_ours() {
    for (family, table, builtin) in [
        (Family::V4, Table::Nat, "PREROUTING"),
        (Family::V6, Table::Nat, "OUTPUT"),
        (Family::V4, Table::Filter, "FORWARD"),
    ] {
        let mut transaction = Transaction::new(table);
        transaction.replace.push(("A".into(), vec![]));
        let insert = vec![Rule::new().comment("first").jump("A"), Rule::new().jump("A")];
        transaction.jumps.push(Jumps { chain: builtin.to_owned(), remove: vec![], insert });
        let write = |natively: bool, before: &str| {
            inside(|| {
                let mut tool = Tool::open(family, Flavour::Nft).unwrap();
                tool.restore_text(before).unwrap();
                if natively {
                    tool.restore(std::slice::from_ref(&transaction)).unwrap();
                } else {
                    tool.restore_text(&transaction.to_string()).unwrap();
                }
                assert_eq!(tool.written_natively(), natively.into());
                (saved(&mut tool, table), dumped(family, table))
            })
        };
        assert_eq!(write(true, ""), write(false, ""));
        let before = format!("*{}\n-P {builtin} DROP\n-A {builtin} -s ::/0 -j ACCEPT\nCOMMIT\n", table.name());
        let before = if table == Table::Nat { before.replace("DROP", "ACCEPT") } else { before };
        let before = if family == Family::V4 { before.replace("::/0", "0.0.0.0/0") } else { before };
        let kept = write(true, &before);
        assert_eq!(kept.0[builtin].len(), 3);
        assert_eq!(kept, write(false, &before));
    }
}

#[test]
fn what_is_to_be_removed_from_the_kernels_chains_is_left_to_the_tools() {
    inside(|| {
        let mut tool = tool(Family::V4);
        let mut transaction = Transaction::new(Table::Nat);
        transaction.replace.push(("A".into(), vec![]));
        let (remove, insert) = (vec!["-j ACCEPT".to_owned()], vec![Rule::new().jump("A")]);
        transaction.jumps.push(Jumps { chain: "OUTPUT".to_owned(), remove, insert });
        tool.restore(&[transaction]).unwrap();
        assert_eq!(
            (tool.written_natively(), &saved(&mut tool, Table::Nat)["OUTPUT"][..]),
            (0, &["-j A".to_owned()][..])
        );
    });
}

#[test]
fn what_is_too_much_to_hold_is_left_to_the_tools() {
    inside(|| {
        let mut tool = tool(Family::V4);
        let mut transaction = Transaction::new(Table::Nat);
        transaction.replace.push(("A".into(), vec![Rule::new().then(Target::Return); 5_001]));
        tool.restore(&[transaction]).unwrap();
        assert_eq!((tool.written_natively(), saved(&mut tool, Table::Nat)["A"].len()), (0, 5_001));
    });
}

#[test]
fn chains_are_replaced_emptied_and_deleted_at_once() {
    inside(|| {
        let mut tool = tool(Family::V4);
        let mut one = Transaction::new(Table::Nat);
        let leads_to_b = || vec![Rule::new().jump("B")];
        one.replace = vec![("A".into(), leads_to_b()), ("B".into(), vec![Rule::new().then(Target::Return); 2])];
        tool.restore(&[one]).unwrap();
        let mut two = Transaction::new(Table::Nat);
        two.replace = vec![("A".into(), vec![Rule::new().jump("C")]), ("C".into(), leads_to_b())];
        two.empty = vec!["B".into()];
        two.delete = vec!["NEVER-THERE".into()];
        tool.restore(&[two]).unwrap();
        let found = saved(&mut tool, Table::Nat);
        assert_eq!(
            (&found["A"][..], &found["B"][..], &found["C"][..]),
            (&["-j C".to_owned()][..], &[][..], &["-j B".to_owned()][..])
        );
        assert!(!found.contains_key("NEVER-THERE"));
        let mut three = Transaction::new(Table::Nat);
        three.delete = vec!["A".into(), "B".into(), "C".into()];
        tool.restore(&[three]).unwrap();
        assert!(!saved(&mut tool, Table::Nat).contains_key("B"));
        assert_eq!(tool.written_natively(), 3);
    });
}

#[test]
fn what_the_kernel_refuses_the_tools_explain() {
    inside(|| {
        let mut tool = Tool::open(Family::V4, Flavour::Nft).unwrap();
        let mut one = Transaction::new(Table::Nat);
        one.replace.push(("A".into(), vec![Rule::new().then(Target::Return)]));
        // There is no table yet.
        tool.restore(&[one.clone()]).unwrap();
        assert_eq!((tool.written_natively(), saved(&mut tool, Table::Nat)["A"].len()), (0, 1));
        let mut wrong = one.clone();
        wrong.replace.push(("B".into(), vec![Rule::new().jump("NOWHERE")]));
        let error = tool.restore(&[one, wrong]).unwrap_err();
        assert!(
            matches!(&error, Error::Refused { text, .. } if text.contains("NOWHERE") || text == "COMMIT"),
            "{error}"
        );
        assert_eq!(tool.written_natively(), 1, "the first of both was right");
        assert!(!saved(&mut tool, Table::Nat).contains_key("B"));
    });
}
