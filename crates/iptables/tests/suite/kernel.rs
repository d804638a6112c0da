//! The real tools in fresh namespaces: which flavour is found, what a refusal says, what the generation tells.

use iptables::{Error, Family, Flavour, Iptables, Jumps, Rule, Saved, Table, Tool, Transaction, detect};
use netns::NetNs;

/// A lock for each network namespace, where the machine has one for all.
const LOCK: &str = "/proc/self/ns/net";

fn inside<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root").run(act).unwrap()
}

#[test]
fn the_flavour_is_the_one_that_others_use() {
    let hints = &[(Table::Mangle, "A-HINT")];
    let write =
        |flavour, text: &str| Tool::open(Family::V4, flavour).unwrap().locked_by(LOCK).restore_text(text).unwrap();
    assert_eq!(inside(|| detect(hints).unwrap()), Flavour::Nft, "an empty namespace");
    let tables = inside(|| {
        detect(hints).unwrap();
        // Not there as long as nothing has asked for the kernel's module.
        std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default()
    });
    assert_eq!(tables, "", "looking makes no legacy tables");
    let rules = "*filter\n-A INPUT -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n";
    let found = inside(|| {
        write(Flavour::Legacy, rules);
        detect(hints).unwrap()
    });
    assert_eq!(found, Flavour::Legacy, "the one with rules");
    let found = inside(|| {
        write(Flavour::Legacy, rules);
        write(Flavour::Nft, "*mangle\n:A-HINT - [0:0]\nCOMMIT\n");
        detect(hints).unwrap()
    });
    assert_eq!(found, Flavour::Nft, "a hint outweighs rules");
}

#[test]
fn a_refusal_names_tool_and_line() {
    for (flavour, program) in [(Flavour::Nft, "iptables-nft-restore"), (Flavour::Legacy, "iptables-legacy-restore")] {
        let error = inside(|| {
            let mut tool = Tool::open(Family::V4, flavour).unwrap().locked_by(LOCK);
            let mut transaction = Transaction::new(Table::Nat);
            let rule = Rule::new().comment("the wrong one").jump("NOWHERE");
            transaction.replace.push(("A".into(), vec![Rule::new().then(iptables::Target::Return), rule]));
            tool.restore(&[Transaction::new(Table::Filter), transaction]).unwrap_err()
        });
        let Error::Refused { program: by, line, .. } = &error else { panic!("{error:?}") };
        assert!(by.ends_with(program), "{by}");
        // The tools on nf_tables look for chains when the table is committed, which is the line behind. They aren't told of the
        // first table, which needs no tool.
        assert!(if flavour == Flavour::Nft { matches!(line, 4 | 5) } else { *line == 6 }, "{error}");
        assert!(error.to_string().contains("NOWHERE"), "{error}");
    }
}

#[test]
fn the_generation_goes_up_with_each_transaction() {
    inside(|| {
        let mut tool = Tool::open(Family::V4, Flavour::Nft).unwrap().locked_by(LOCK);
        let mut one = Transaction::new(Table::Nat);
        one.replace.push(("A".into(), vec![Rule::new().then(iptables::Target::Return)]));
        let mut two = Transaction::new(Table::Filter);
        two.replace.push(("A".into(), vec![]));
        two.jumps.push(Jumps { chain: "INPUT".to_owned(), remove: vec![], insert: vec![Rule::new().jump("A")] });
        // The first time the tables themselves are made.
        tool.restore(&[one.clone(), two.clone()]).unwrap();
        let before = tool.generation().unwrap().unwrap();
        tool.save(Table::Nat, &mut |_| ()).unwrap();
        assert!(tool.has_chain(Table::Nat, "A").unwrap());
        assert_eq!(tool.generation().unwrap(), Some(before), "looking changes nothing");
        two.jumps[0].remove.push("-j A".to_owned());
        two.jumps[0].insert.clear();
        tool.restore(&[one, two]).unwrap();
        assert_eq!(tool.generation().unwrap(), Some(before + 2));
        assert_eq!(Tool::open(Family::V4, Flavour::Legacy).unwrap().locked_by(LOCK).generation().unwrap(), None);
    });
}

#[test]
fn what_others_wrote_is_shown_as_text() {
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        inside(|| {
            let mut tool = Tool::open(Family::V4, flavour).unwrap().locked_by(LOCK);
            tool.restore_text("*filter\n-A INPUT -i eth0 -m limit --limit 5/min -j LOG --log-prefix \"a b\"\nCOMMIT\n")
                .unwrap();
            let mut specs = Vec::new();
            tool.save(Table::Filter, &mut |line| {
                if let Saved::Rule { spec, .. } = line {
                    specs.push(spec.to_owned());
                }
            })
            .unwrap();
            assert_eq!(specs.len(), 1);
            assert_eq!(Rule::parse(&specs[0]), None, "{}", specs[0]);
        });
    }
}
