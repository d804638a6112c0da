//! The backend on fakes of nf_tables and IPVS: the battery, removal with grace, what is others', what is refused.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipvs::{Ipvs, Op, Options as SchedulerOptions, Scheduler, Server, ServerKey};
use nft::{Nft, Transaction};
use proxy::Plan as _;
use proxy::battery::{self, Random, World};
use proxy::{Backend, Retired};
use proxy_ipvs::{IpvsBackend, Options};
use service_model::{Change, Event, ForwardingTable, IpFamily, NodeView, ServiceModel};

type Faked = IpvsBackend<nft::Fake, ipvs::Fake>;

/// Reads everything at every look.
fn options() -> Options {
    Options { full_look: Duration::ZERO, ..Options::default() }
}

fn backend(family: IpFamily, options: Options) -> Faked {
    let fake = ipvs::Fake::with_addresses(IpFamily::BOTH.map(|family| World::new(family).node_address));
    let nft = nft::Fake::new().with_capacity(nft::fake::USUAL_CAPACITY);
    let [v4, v6] = IpvsBackend::pair(nft, fake, options);
    if family == IpFamily::V4 { v4 } else { v6 }
}

#[tokio::test]
async fn replanning_is_empty() {
    for family in IpFamily::BOTH {
        for seed in 0..4 {
            battery::replanning_is_empty(&backend(family, options()), &World::new(family), seed).await;
        }
    }
}

#[tokio::test]
async fn incremental_equals_full() {
    for family in IpFamily::BOTH {
        for seed in 0..6 {
            battery::incremental_equals_full(&backend(family, options()), &World::new(family), seed).await;
        }
    }
}

#[tokio::test]
async fn killed_anywhere_it_converges() {
    for family in IpFamily::BOTH {
        battery::killed_anywhere_it_converges(&backend(family, options()), &World::new(family), 3).await;
    }
}

fn theirs() -> ServerKey {
    ServerKey::Address { protocol: 6, at: "198.51.100.7:80".parse().unwrap() }
}

fn plain() -> Server {
    Server { scheduler: Scheduler::round_robin(), options: SchedulerOptions::default(), persistence: None }
}

/// Deletes or adds something of ours, as an operator with `nft`, `ipvsadm` and `ip` could.
fn spoil(nft: &mut nft::Fake, ipvs: &mut ipvs::Fake, random: &mut Random) {
    let ours: Vec<ServerKey> =
        ipvs.servers(ipvs::Family::V4).unwrap().into_keys().filter(|key| *key != theirs()).collect();
    let server = *random.pick(&ours).unwrap();
    match random.below(7) {
        0 => ipvs.change(&[Op::DeleteServer(server)]).unwrap(),
        1 => {
            let to = "10.244.1.99:1".parse().unwrap();
            let _ = ipvs.change(&[Op::AddDestination(server, to, ipvs::Destination::masqueraded(1))]);
            let _ = ipvs.change(&[Op::SetServer(server, Server { persistence: Some(7), ..plain() })]);
        }
        2 => {
            let bound: Vec<IpAddr> = ipvs.addresses(ipvs::Family::V4).unwrap().bound.into_iter().collect();
            ipvs.unbind(&bound[..1]).unwrap();
        }
        3 => ipvs.bind(&["10.96.200.200".parse().unwrap()]).unwrap(),
        4 => ipvs.remove_device().unwrap(),
        5 => {
            nft.apply(Transaction::new(proxy_ipvs::table(IpFamily::V4)).delete_table()).unwrap();
        }
        _ => {
            let ruleset = nft.dump(&proxy_ipvs::table(IpFamily::V4)).unwrap().unwrap();
            let sets: Vec<_> = ruleset.sets.values().collect();
            let set = random.pick(&sets).unwrap();
            let mut transaction = Transaction::new(proxy_ipvs::table(IpFamily::V4));
            transaction.flush_set(&set.set).add_chain(nft::Chain::regular("a-strangers-chain"));
            nft.apply(&transaction).unwrap();
        }
    }
}

#[tokio::test]
async fn converges_from_garbage_and_leaves_others_alone() {
    let backend = backend(IpFamily::V4, options());
    backend.with_handles(|_, ipvs| ipvs.change(&[Op::AddServer(theirs(), plain())])).unwrap();
    for seed in 0..6 {
        let spoil = |backend: &Faked, random: &mut Random| backend.with_handles(|nft, ipvs| spoil(nft, ipvs, random));
        battery::converges_from_garbage(&backend, &World::new(IpFamily::V4), seed, spoil).await;
    }
    backend.cleanup().await.unwrap();
    backend.with_handles(|nft, ipvs| {
        assert_eq!(ipvs.servers(ipvs::Family::V4).unwrap().into_keys().collect::<Vec<_>>(), [theirs()]);
        assert!(!ipvs.addresses(ipvs::Family::V4).unwrap().device_exists);
        assert!(nft.dump(&proxy_ipvs::table(IpFamily::V4)).unwrap().is_none());
    });
}

/// One Service of TCP and UDP with these endpoints, two of them here.
fn world(endpoints: &[&str]) -> ForwardingTable {
    service(r#""type":"NodePort","clusterIPs":["10.96.0.9"]"#, endpoints)
}

fn service(spec: &str, endpoints: &[&str]) -> ForwardingTable {
    let mut model = ServiceModel::new();
    let service = format!(
        r#"{{"metadata":{{"namespace":"n","name":"s"}},"spec":{{{spec},"ports":[
        {{"name":"t","port":80,"protocol":"TCP","nodePort":30080}},{{"name":"u","port":80,"protocol":"UDP","nodePort":30080}}]}}}}"#
    );
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!(r#"{{"addresses":["{address}"]}}"#)).collect();
    let slice = format!(
        r#"{{"metadata":{{"namespace":"n","name":"s-1","labels":{{"kubernetes.io/service-name":"s"}}}},
        "addressType":"IPv4","ports":[{{"name":"t","protocol":"TCP","port":8080}},{{"name":"u","protocol":"UDP","port":8080}}],
        "endpoints":[{}]}}"#,
        endpoints.join(",")
    );
    model.apply(Event::Service(Change::Upsert(serde_json::from_str(&service).unwrap())));
    model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_str(&slice).unwrap())));
    model.resolve(&NodeView::named("here"), IpFamily::V4)
}

fn at(protocol: u8, text: &str) -> ServerKey {
    ServerKey::Address { protocol, at: text.parse().unwrap() }
}

fn weights(backend: &Faked, server: &ServerKey) -> Vec<(String, u32)> {
    let found = backend.with_handles(|_, ipvs| ipvs.destinations(server).unwrap());
    found.into_iter().map(|(at, state)| (at.ip().to_string(), state.destination.weight)).collect()
}

fn named(weights: &[(&str, u32)]) -> Vec<(String, u32)> {
    weights.iter().map(|(address, weight)| ((*address).to_owned(), *weight)).collect()
}

#[tokio::test]
async fn an_endpoint_with_connections_is_drained_also_by_the_next_life() {
    let tcp = at(6, "10.96.0.9:80");
    let busy = "10.244.1.5:8080".parse().unwrap();
    let first = backend(IpFamily::V4, options());
    battery::settle(&first, &world(&["10.244.1.5", "10.244.1.6"])).await;
    first.with_handles(|_, ipvs| {
        assert!(ipvs.occupy(&tcp, busy, 1, 2));
        assert!(ipvs.occupy(&at(17, "10.96.0.9:80"), busy, 0, 3));
    });
    let without = world(&["10.244.1.6"]);
    let observed = battery::settle(&first, &without).await;
    assert_eq!(weights(&first, &tcp), named(&[("10.244.1.5", 0), ("10.244.1.6", 1)]), "it gets no more");
    assert_eq!(weights(&first, &at(17, "10.96.0.9:80")), named(&[("10.244.1.6", 1)]), "datagrams end at once");
    assert_eq!(weights(&first, &at(6, "172.30.0.11:30080")), named(&[("10.244.1.6", 1)]), "nobody was there");
    assert!(first.plan(&first.desired(&without), &observed).steps() == 0, "it is waited for");

    // The next life knows only what the kernel says.
    let (nft, ipvs) = first.with_handles(|nft, ipvs| (nft.clone(), ipvs.clone()));
    let [next, _] = IpvsBackend::pair(nft, ipvs, options());
    let observed = battery::settle(&next, &without).await;
    assert_eq!(weights(&next, &tcp), named(&[("10.244.1.5", 0), ("10.244.1.6", 1)]), "still waited for");
    assert!(!next.is_stale(&observed).await.unwrap());
    next.with_handles(|_, ipvs| assert!(ipvs.occupy(&tcp, busy, 0, 0)));
    assert!(next.is_stale(&observed).await.unwrap(), "the last one's end is noticed");
    battery::settle(&next, &without).await;
    assert_eq!(weights(&next, &tcp), named(&[("10.244.1.6", 1)]));
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_used_again() {
    let tcp = at(6, "10.96.0.9:80");
    let backend = backend(IpFamily::V4, options());
    let both = world(&["10.244.1.5", "10.244.1.6"]);
    battery::settle(&backend, &both).await;
    backend.with_handles(|_, ipvs| assert!(ipvs.occupy(&tcp, "10.244.1.5:8080".parse().unwrap(), 1, 0)));
    let observed = battery::settle(&backend, &world(&["10.244.1.6"])).await;
    battery::advance(&backend, &both, observed).await;
    assert_eq!(weights(&backend, &tcp), named(&[("10.244.1.5", 1), ("10.244.1.6", 1)]));
}

#[tokio::test]
async fn a_drained_endpoint_goes_when_its_time_is_up() {
    let tcp = at(6, "10.96.0.9:80");
    let backend = backend(IpFamily::V4, Options { drain: Duration::ZERO, ..options() });
    battery::settle(&backend, &world(&["10.244.1.5", "10.244.1.6"])).await;
    backend.with_handles(|_, ipvs| assert!(ipvs.occupy(&tcp, "10.244.1.5:8080".parse().unwrap(), 1, 0)));
    let without = world(&["10.244.1.6"]);
    battery::settle(&backend, &without).await;
    battery::settle(&backend, &without).await;
    assert_eq!(weights(&backend, &tcp), named(&[("10.244.1.6", 1)]));
}

/// Servers, addresses, and of the table its rules and the elements of each set.
type Remains = (Vec<ServerKey>, Vec<String>, Option<(usize, Vec<String>)>);

fn remains(backend: &Faked) -> Remains {
    backend.with_handles(|nft, ipvs| {
        let servers = ipvs.servers(ipvs::Family::V4).unwrap().into_keys().collect();
        let bound = ipvs.addresses(ipvs::Family::V4).unwrap().bound.iter().map(ToString::to_string).collect();
        let table = nft.dump(&proxy_ipvs::table(IpFamily::V4)).unwrap().map(|ruleset| {
            let sets = ruleset.sets.values().filter(|set| !set.elements.is_empty());
            let sets = sets.map(|set| format!("{} {}", set.set.name, set.elements.len())).collect();
            (ruleset.chains.values().map(|chain| chain.rules.len()).sum(), sets)
        });
        (servers, bound, table)
    })
}

#[tokio::test]
async fn when_another_mode_takes_over_connections_go_on_until_they_end() {
    let (tcp, udp) = (at(6, "10.96.0.9:80"), at(17, "172.30.0.11:30080"));
    let busy: SocketAddr = "10.244.1.5:8080".parse().unwrap();
    let first = backend(IpFamily::V4, options());
    let both = world(&["10.244.1.5", "10.244.1.6"]);
    battery::settle(&first, &both).await;
    first.with_handles(|_, ipvs| {
        ipvs.change(&[Op::AddServer(theirs(), plain())]).unwrap();
        assert!(ipvs.occupy(&tcp, busy, 1, 0) && ipvs.occupy(&udp, busy, 0, 1));
    });
    let draining = || {
        let address = vec!["10.96.0.9".to_owned()];
        (vec![tcp, theirs(), udp], address, Some((3, vec!["bound 1".to_owned(), "servers 2".to_owned()])))
    };
    // Also one that somebody has damaged meanwhile.
    for damage in [false, true] {
        if damage {
            let mut transaction = Transaction::new(proxy_ipvs::table(IpFamily::V4));
            transaction.add_chain(nft::Chain::regular("a-strangers-chain"));
            first.with_handles(|nft, _| nft.apply(&transaction)).unwrap();
        }
        assert_eq!(first.retire().await.unwrap(), Retired::Draining);
        assert_eq!(remains(&first), draining());
        for server in [tcp, udp] {
            assert_eq!(weights(&first, &server), named(&[("10.244.1.5", 0)]), "it gets no more");
        }
    }
    // The process may end meanwhile, and the mode may come back before the last connection has ended.
    let next = next_life(&first);
    assert_eq!((next.retire().await.unwrap(), remains(&next)), (Retired::Draining, draining()));
    battery::settle(&next, &both).await;
    assert_eq!(weights(&next, &tcp), named(&[("10.244.1.5", 1), ("10.244.1.6", 1)]));
    assert_eq!(next_life(&next).retire().await.unwrap(), Retired::Draining);
    next.with_handles(|_, ipvs| assert!(ipvs.occupy(&tcp, busy, 0, 0)));
    assert_eq!(next.retire().await.unwrap(), Retired::Draining);
    assert_eq!(remains(&next), (vec![theirs(), udp], vec![], Some((3, vec!["servers 1".to_owned()]))));
    next.with_handles(|_, ipvs| assert!(ipvs.occupy(&udp, busy, 0, 0)));
    assert_eq!(next.retire().await.unwrap(), Retired::Gone);
    assert_eq!(remains(&next), (vec![theirs()], vec![], None));
}

fn next_life(backend: &Faked) -> Faked {
    let (nft, ipvs) = backend.with_handles(|nft, ipvs| (nft.clone(), ipvs.clone()));
    let [next, _] = IpvsBackend::pair(nft, ipvs, options());
    next
}

#[tokio::test]
async fn connections_of_a_mode_whose_time_is_up_end_with_it() {
    let tcp = at(6, "10.96.0.9:80");
    let busy = "10.244.1.5:8080".parse().unwrap();
    for asked in [true, false] {
        let drain = if asked { Duration::from_secs(900) } else { Duration::ZERO };
        let backend = backend(IpFamily::V4, Options { drain, ..options() });
        battery::settle(&backend, &world(&["10.244.1.5"])).await;
        backend.with_handles(|_, ipvs| assert!(ipvs.occupy(&tcp, busy, 1, 0)));
        if asked {
            backend.cleanup().await.unwrap();
        } else {
            assert_eq!(backend.retire().await.unwrap(), Retired::Gone);
        }
        assert_eq!(remains(&backend), (vec![], vec![], None));
    }
}

#[tokio::test]
async fn excluded_addresses_are_neither_made_nor_touched() {
    let exclude_cidrs = vec!["198.51.100.0/24".parse().unwrap(), "10.96.0.9/32".parse().unwrap()];
    let backend = backend(IpFamily::V4, Options { exclude_cidrs, ..options() });
    // In one of them, on our device and at a Service's address: still not ours.
    let inside = at(6, "10.96.0.9:80");
    backend.with_handles(|_, ipvs| {
        ipvs.change(&[Op::AddServer(theirs(), plain()), Op::AddServer(inside, plain())]).unwrap();
        ipvs.bind(&["198.51.100.7".parse().unwrap()]).unwrap();
    });
    battery::settle(&backend, &world(&["10.244.1.5"])).await;
    let servers: BTreeSet<ServerKey> =
        backend.with_handles(|_, ipvs| ipvs.servers(ipvs::Family::V4).unwrap().into_keys().collect());
    let node_ports = [6, 17].map(|protocol| at(protocol, "172.30.0.11:30080"));
    assert_eq!(servers, BTreeSet::from([theirs(), inside, node_ports[0], node_ports[1]]));
    assert_eq!(weights(&backend, &inside), [], "without our endpoints");
    // Nor when another mode takes over, nor when all is cleaned up.
    let left = || {
        backend.with_handles(|_, ipvs| {
            let addresses = ipvs.addresses(ipvs::Family::V4).unwrap();
            (ipvs.servers(ipvs::Family::V4).unwrap().len(), addresses.bound.into_iter().collect::<Vec<_>>())
        })
    };
    let theirs = (2, vec!["198.51.100.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(backend.retire().await.unwrap(), Retired::Gone);
    assert_eq!(left(), theirs);
    battery::settle(&backend, &world(&["10.244.1.5"])).await;
    backend.cleanup().await.unwrap();
    assert_eq!(left(), theirs);
}

#[tokio::test]
async fn the_scheduler_is_the_operator_s_and_affinity_is_persistence() {
    let scheduler = Scheduler::new("sh").unwrap();
    let backend = backend(IpFamily::V4, Options { scheduler: scheduler.clone(), ..options() });
    let affinity = r#""type":"NodePort","clusterIPs":["10.96.0.9"],"sessionAffinity":"ClientIP",
        "sessionAffinityConfig":{"clientIP":{"timeoutSeconds":77}}"#;
    battery::settle(&backend, &service(affinity, &["10.244.1.5"])).await;
    let servers = backend.with_handles(|_, ipvs| ipvs.servers(ipvs::Family::V4).unwrap());
    assert_eq!(servers.len(), 4);
    for server in servers.values() {
        assert_eq!((&server.scheduler, server.persistence), (&scheduler, Some(77)));
        assert_eq!(server.options, SchedulerOptions::FALLBACK, "no client stays with an endpoint that is drained");
    }
}

#[tokio::test]
async fn a_new_table_has_rules_when_its_services_are_in_it() {
    let backend = backend(IpFamily::V4, options());
    let observed = backend.observe().await.unwrap();
    let text = backend.plan(&backend.desired(&world(&["10.244.1.5"])), &observed).to_string();
    let last_element = text.rfind("add element ip portolan-ipvs ").unwrap();
    assert!(text.find("add rule ip portolan-ipvs ").unwrap() > last_element, "{text}");
    assert!(text.find("ip address add ").unwrap() > text.rfind("add rule ip portolan-ipvs ").unwrap(), "{text}");
}

#[tokio::test]
async fn a_plan_reads_like_the_tools() {
    let backend = backend(IpFamily::V4, options());
    let observed = backend.observe().await.unwrap();
    let text = backend.plan(&backend.desired(&world(&["10.244.1.5"])), &observed).to_string();
    for line in [
        "ipvsadm -A -t 10.96.0.9:80 -s rr",
        "ipvsadm -a -u 172.30.0.11:30080 -r 10.244.1.5:8080 -m -w 1",
        "ip address add 10.96.0.9 dev kube-ipvs0",
        "add element ip portolan-ipvs frontends",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
