//! The backend on the fake: the battery, with and without generations, and what a plan says.

use std::sync::mpsc;
use std::time::Duration;

use iptables::{EachLine, Error, Fake, Iptables, Table, Transaction};
use proxy::battery::{self, Random, World};
use proxy::{Backend, Plan, Refusal, RefusalReason};
use proxy_iptables::{FullLook, IptablesBackend, Observed, Options};
use service_model::{Change, Event, ForwardingTable, IpFamily, NodePortAddresses, ServiceModel};

fn family(family: IpFamily) -> iptables::Family {
    if family == IpFamily::V4 { iptables::Family::V4 } else { iptables::Family::V6 }
}

fn backend(of: IpFamily) -> IptablesBackend<Fake> {
    IptablesBackend::new(of, Fake::new(family(of)), Options::default())
}

fn without_generations(of: IpFamily) -> IptablesBackend<Fake> {
    let options = Options { full_look: FullLook(Duration::ZERO), ..Options::default() };
    IptablesBackend::new(of, Fake::without_generations(family(of)), options)
}

#[tokio::test]
async fn replanning_is_empty() {
    for family in IpFamily::BOTH {
        for seed in 0..4 {
            battery::replanning_is_empty(&backend(family), &World::new(family), seed).await;
        }
    }
}

#[tokio::test]
async fn incremental_equals_full() {
    for family in IpFamily::BOTH {
        for seed in 0..4 {
            battery::incremental_equals_full(&backend(family), &World::new(family), seed).await;
        }
    }
}

#[tokio::test]
async fn killed_anywhere_it_converges() {
    for seed in 0..4 {
        battery::killed_anywhere_it_converges(&backend(IpFamily::V4), &World::new(IpFamily::V4), seed).await;
    }
}

/// What an operator, or another program, could do to our chains.
const SPOILS: [&str; 9] = [
    "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n",
    "*nat\n-I KUBE-SERVICES 1 -j RETURN\nCOMMIT\n",
    "*nat\n-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n",
    "*nat\n-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n",
    "*nat\n-A OUTPUT -p tcp -j KUBE-SERVICES\n-A POSTROUTING -s 10.1.0.0/16 -j KUBE-MARK-MASQ\nCOMMIT\n",
    "*nat\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n-A KUBE-SEP-AAAAAAAAAAAAAAAA -j KUBE-MARK-MASQ\nCOMMIT\n",
    "*filter\n-A KUBE-FORWARD -j DROP\nCOMMIT\n",
    "*filter\n:KUBE-PROXY-CANARY - [0:0]\n-X KUBE-PROXY-CANARY\nCOMMIT\n",
    "*nat\n:THEIRS - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n-A KUBE-SVC-AAAAAAAAAAAAAAAA -j RETURN\n\
     -A THEIRS -j KUBE-SVC-AAAAAAAAAAAAAAAA\nCOMMIT\n",
];

#[tokio::test]
async fn converges_from_garbage_and_leaves_others_alone() {
    let theirs = "*filter\n:THEIRS - [0:0]\n-A THEIRS -s 10.0.0.0/8 -j RETURN\n-A FORWARD -j THEIRS\nCOMMIT\n";
    for backend in [backend(IpFamily::V4), without_generations(IpFamily::V4)] {
        backend.with_tool(|fake| fake.restore_text(theirs)).unwrap();
        let before = backend.with_tool(|fake| fake.saved());
        let mut spoils = SPOILS.iter().cycle();
        battery::converges_from_garbage(&backend, &World::new(IpFamily::V4), 5, |backend, _| {
            let spoil = spoils.next().unwrap();
            // Its own chain may be spoilt once only.
            backend.with_tool(|fake| fake.restore_text(spoil)).unwrap();
        })
        .await;
        // A chain that somebody else's rule leads to can only be emptied.
        let pinned = "-A THEIRS -j KUBE-SVC-AAAAAAAAAAAAAAAA";
        assert!(backend.with_tool(|fake| fake.saved()).contains(pinned));
        // So is one that an operator's own rule of the kernel's chains leads to, which stays.
        backend.cleanup().await.unwrap();
        let own = ["OUTPUT -p tcp -j KUBE-SERVICES", "POSTROUTING -s 10.1.0.0/16 -j KUBE-MARK-MASQ"];
        let left = backend.with_tool(|fake| fake.saved());
        assert!(left.contains(":KUBE-SERVICES ") && own.iter().all(|rule| left.contains(rule)), "{left}");
        assert!(!left.contains("-A KUBE-"), "{left}");
        let theirs = left.lines().filter_map(|line| line.strip_prefix("-A ").filter(|rule| own.contains(rule)));
        let gone: String = theirs.map(|rule| format!("-D {rule}\n")).collect();
        backend.with_tool(|fake| fake.restore_text(&format!("*nat\n{gone}COMMIT\n"))).unwrap();
        backend.with_tool(|fake| fake.restore_text("*nat\n:THEIRS - [0:0]\n-X THEIRS\nCOMMIT\n")).unwrap();
        backend.cleanup().await.unwrap();
        let empty_nat = "*nat\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
                         :PREROUTING ACCEPT [0:0]\nCOMMIT\n";
        assert_eq!(backend.with_tool(|fake| fake.saved()), format!("{empty_nat}{before}"));
    }
}

#[tokio::test]
async fn a_foreign_flush_is_noticed_without_reading_everything() {
    let options = Options { full_look: FullLook(Duration::from_secs(3600)), ..Options::default() };
    let fake = Fake::without_generations(iptables::Family::V4);
    let backend = IptablesBackend::new(IpFamily::V4, fake, options);
    let world = World::new(IpFamily::V4);
    let model = world.model(&mut Random::new(1));
    let observed = battery::settle(&backend, &model.resolve(&world.node, IpFamily::V4)).await;
    assert!(!backend.is_stale(&observed).await.unwrap());
    backend.with_tool(|fake| *fake = Fake::without_generations(iptables::Family::V4));
    assert!(backend.is_stale(&observed).await.unwrap());
}

fn service(model: &mut ServiceModel, name: &str, number: u8) {
    let service = serde_json::json!({
        "metadata": {"namespace": "ns", "name": name},
        "spec": {"clusterIPs": [format!("10.96.0.{number}")], "ports": [{"name": "p", "port": 80}]}
    });
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
}

fn endpoints(model: &mut ServiceModel, name: &str, pods: &[u8]) {
    let endpoints: Vec<_> = pods.iter().map(|n| serde_json::json!({"addresses": [format!("10.244.2.{n}")]})).collect();
    let slice = serde_json::json!({
        "metadata": {"namespace": "ns", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 8080}], "endpoints": endpoints
    });
    model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
}

#[tokio::test]
async fn a_change_writes_the_chains_it_changes_and_no_others() {
    let world = World::new(IpFamily::V4);
    let backend = backend(IpFamily::V4);
    let mut model = ServiceModel::new();
    for (name, number) in [("a", 1), ("b", 2)] {
        service(&mut model, name, number);
        endpoints(&mut model, name, &[1, 2, 3]);
    }
    let mut table = model.resolve(&world.node, IpFamily::V4);
    let observed = battery::settle(&backend, &table).await;
    endpoints(&mut model, "b", &[1, 2, 4]);
    model.update(&mut table, &world.node);
    let plan = backend.plan(&backend.desired(&table), &observed);
    let text = plan.to_string();
    assert_eq!(plan.steps(), 1, "the filter table is left alone:\n{text}");
    let written: Vec<&str> = text.lines().filter(|line| line.starts_with(':')).collect();
    assert_eq!(written.len(), 3, "the Service's chain, the new endpoint's and the old one's:\n{text}");
    assert!(!text.contains("KUBE-SERVICES"), "{text}");
    assert!(text.contains("--probability 0.33333333") && text.contains("--to-destination 10.244.2.4:8080"), "{text}");
    assert!(text.starts_with("*nat\n") && text.contains("\n-X KUBE-SEP-") && text.ends_with("\nCOMMIT\n"), "{text}");
}

#[tokio::test]
async fn what_is_refused_is_written_whole_the_next_time() {
    let world = World::new(IpFamily::V4);
    let backend = backend(IpFamily::V4);
    let mut model = ServiceModel::new();
    service(&mut model, "a", 1);
    endpoints(&mut model, "a", &[1, 2]);
    let mut table = model.resolve(&world.node, IpFamily::V4);
    let observed = battery::settle(&backend, &table).await;
    // A chain that is about to go is held by a rule we don't know of.
    let held = backend.with_tool(|fake| {
        let text = fake.saved();
        let line = text.lines().find(|line| line.ends_with("--to-destination 10.244.2.2:8080")).unwrap().to_owned();
        let chain = line.split(' ').nth(1).unwrap().to_owned();
        fake.restore_text(&format!("*nat\n-A INPUT -j {chain}\nCOMMIT\n")).unwrap();
        chain
    });
    endpoints(&mut model, "a", &[1]);
    model.update(&mut table, &world.node);
    let plan = backend.plan(&backend.desired(&table), &observed);
    let error = backend.apply(&plan, observed).await.expect_err("the chain is in use");
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains(&format!("-X {held}")), "{said}");
    let observed = battery::settle(&backend, &table).await;
    assert!(backend.plan(&backend.desired(&table), &observed).refused().is_empty(), "the port is not to blame");
    let text = backend.with_tool(|fake| fake.saved());
    assert!(text.contains(&format!("-A INPUT -j {held}\n")) && !text.contains(&format!("-A {held} ")), "{text}");
    backend.with_tool(|fake| fake.restore_text(&format!("*nat\n-D INPUT -j {held}\nCOMMIT\n"))).unwrap();
    battery::settle(&backend, &table).await;
    assert!(!backend.with_tool(|fake| fake.has_chain(Table::Nat, &held)).unwrap());
}

/// A plan that fails once or twice, as the Syncer does it: look again, plan again.
async fn settle_in_the_end(backend: &IptablesBackend<Fake>, table: &ForwardingTable) -> (Observed, Vec<Refusal>) {
    for _ in 0..3 {
        let observed = backend.observe().await.unwrap();
        let plan = backend.plan(&backend.desired(table), &observed);
        if let Ok(observed) = backend.apply(&plan, observed).await {
            return (observed, plan.refused().to_vec());
        }
    }
    panic!("it never comes into force");
}

#[tokio::test]
async fn what_the_kernel_lacks_costs_the_ports_that_need_it_and_no_others() {
    let world = World::new(IpFamily::V4);
    for backend in [backend(IpFamily::V4), without_generations(IpFamily::V4)] {
        let mut model = ServiceModel::new();
        for (name, number) in [("a", 1), ("b", 2), ("c", 3)] {
            service(&mut model, name, number);
            endpoints(&mut model, name, &[1]);
        }
        let special = serde_json::json!({"metadata": {"namespace": "ns", "name": "b"}, "spec": {"clusterIPs": ["10.96.0.2"],
            "sessionAffinity": "ClientIP", "ports": [{"name": "p", "port": 80}]}});
        model.apply(Event::Service(Change::Upsert(serde_json::from_value(special).unwrap())));
        let sctp = |protocol: &str| {
            let sctp = serde_json::json!({"metadata": {"namespace": "ns", "name": "c"},
                "spec": {"clusterIPs": ["10.96.0.3"], "ports": [{"name": "p", "port": 80, "protocol": protocol}]}});
            Event::Service(Change::Upsert(serde_json::from_value(sctp).unwrap()))
        };
        model.apply(sctp("SCTP"));
        let mut table = model.resolve(&world.node, IpFamily::V4);
        backend.with_tool(|fake| ["sctp", "recent"].into_iter().for_each(|name| fake.lose(name)));
        let (observed, refused) = settle_in_the_end(&backend, &table).await;
        let refused: Vec<_> = refused.iter().map(|one| (one.port.service.name(), one.reason)).collect();
        assert_eq!(refused, [("b", RefusalReason::NoAffinity), ("c", RefusalReason::NoSctp)]);
        let text = backend.with_tool(|fake| fake.saved());
        assert!(text.contains("--to-destination 10.244.2.1:8080") && text.contains("ns/a:p cluster IP"), "{text}");
        assert!(!text.contains("KUBE-PROXY-PROBE"), "{text}");
        assert!(backend.plan(&backend.desired(&table), &observed).is_empty());
        // Whoever needs it no longer is served with the next change.
        model.apply(sctp("TCP"));
        model.update(&mut table, &world.node);
        let plan = backend.plan(&backend.desired(&table), &observed);
        assert_eq!(plan.refused().len(), 1);
        backend.apply(&plan, observed).await.unwrap();
        let text = backend.with_tool(|fake| fake.saved());
        assert!(text.contains("ns/c:p cluster IP"), "{text}");
    }
}

#[tokio::test]
async fn a_port_whose_rule_is_refused_is_left_out_alone() {
    let world = World::new(IpFamily::V4);
    let backend = backend(IpFamily::V4);
    let mut model = ServiceModel::new();
    for (name, number) in [("a", 1), ("b", 2)] {
        service(&mut model, name, number);
    }
    // Only `a` has more than one endpoint, for which a die is cast.
    endpoints(&mut model, "a", &[1, 2]);
    endpoints(&mut model, "b", &[3]);
    let table = model.resolve(&world.node, IpFamily::V4);
    backend.with_tool(|fake| fake.lose("statistic"));
    let (_, refused) = settle_in_the_end(&backend, &table).await;
    let refused: Vec<_> = refused.iter().map(|one| (one.port.service.name(), one.reason)).collect();
    assert_eq!(refused, [("a", RefusalReason::RulesRefused)]);
    let text = backend.with_tool(|fake| fake.saved());
    assert!(text.contains("ns/b:p cluster IP") && !text.contains("ns/a:p cluster IP"), "{text}");
}

#[tokio::test]
async fn localhost_is_routed_when_its_node_ports_answer_and_not_before() {
    let mut world = World::new(IpFamily::V4);
    let backend = backend(IpFamily::V4);
    let model = world.model(&mut Random::new(1));
    battery::settle(&backend, &model.resolve(&world.node, IpFamily::V4)).await;
    assert!(!backend.with_tool(|fake| fake.routes_loopback()));
    world.node.node_ports = NodePortAddresses::Only(["127.0.0.1".parse().unwrap()].into());
    battery::settle(&backend, &model.resolve(&world.node, IpFamily::V4)).await;
    assert!(backend.with_tool(|fake| fake.routes_loopback()));
}

/// Tells of its writes; and once it has ears, takes a moment to look for a chain, in which nobody may write.
struct Slow {
    fake: Fake,
    writes: mpsc::Sender<()>,
    looks: mpsc::Sender<()>,
    ears: Option<mpsc::Receiver<()>>,
}

impl Iptables for Slow {
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error> {
        self.fake.save(table, each)
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        self.writes.send(()).ok();
        self.fake.restore(transactions)
    }

    fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error> {
        if let Some(ears) = &self.ears {
            self.looks.send(()).ok();
            assert!(ears.recv_timeout(Duration::from_millis(300)).is_err(), "the other family writes meanwhile");
        }
        self.fake.has_chain(table, chain)
    }

    fn route_loopback(&mut self) -> Result<(), Error> {
        self.fake.route_loopback()
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        self.fake.generation()
    }
}

#[tokio::test]
async fn a_look_at_one_family_and_a_write_to_the_other_wait_for_each_other() {
    let ((writes, ears), (looks, looking)) = (mpsc::channel(), mpsc::channel());
    let slow = |of| {
        let fake = Fake::without_generations(family(of));
        Slow { fake, writes: writes.clone(), looks: looks.clone(), ears: None }
    };
    let options = Options { full_look: FullLook(Duration::from_secs(3600)), ..Options::default() };
    let [v4, v6] = IptablesBackend::pair(IpFamily::BOTH.map(slow), options);
    let tables = IpFamily::BOTH.map(|family| {
        let world = World::new(family);
        world.model(&mut Random::new(1)).resolve(&world.node, family)
    });
    let known = battery::settle(&v6, &tables[1]).await;
    while ears.try_recv().is_ok() {}
    v6.with_tool(|tool| tool.ears = Some(ears));
    let look = tokio::spawn(async move { v6.is_stale(&known).await.unwrap() });
    tokio::task::spawn_blocking(move || looking.recv().unwrap()).await.unwrap();
    battery::settle(&v4, &tables[0]).await;
    assert!(!look.await.unwrap());
}

/// The tools' lock is somebody else's for ever.
struct Busy(Fake);

impl Iptables for Busy {
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error> {
        self.0.save(table, each)
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        self.0.restore(transactions)
    }

    fn has_chain(&mut self, _: Table, _: &str) -> Result<bool, Error> {
        Err(Error::Locked { program: "iptables".to_owned(), said: "locked".to_owned() })
    }

    fn route_loopback(&mut self) -> Result<(), Error> {
        self.0.route_loopback()
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        self.0.generation()
    }
}

#[tokio::test]
async fn a_busy_lock_does_not_make_what_is_known_stale() {
    let world = World::new(IpFamily::V4);
    let options = Options { full_look: FullLook(Duration::from_secs(3600)), ..Options::default() };
    let busy = Busy(Fake::without_generations(iptables::Family::V4));
    let backend = IptablesBackend::new(IpFamily::V4, busy, options);
    let model = world.model(&mut Random::new(1));
    let observed = battery::settle(&backend, &model.resolve(&world.node, IpFamily::V4)).await;
    assert!(!backend.is_stale(&observed).await.unwrap());
}
