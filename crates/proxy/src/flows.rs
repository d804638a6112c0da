//! Which tracked UDP flows have to go because nobody serves them any more. A flow remembers its endpoint as long as packets
//! come, so without this a client would talk to a pod that is gone for as long as it keeps talking. Flows to endpoints
//! that still serve are never touched. Pure, but for `reconcile`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use conntrack::{Conntrack, ConntrackError, Family, Filter, Flow};
use service_model::{ForwardingTable, FrontendKey, IpFamily, Port, Protocol};

/// Deletes the stale flows of a table. `before` are the frontends that were served until now: flows to those that are gone
/// go too. `answers_here` says where this process itself answers: it ends what has to end there. Returns how many were
/// deleted.
pub(crate) fn reconcile(
    conntrack: &mut Conntrack,
    table: &ForwardingTable,
    before: &BTreeSet<FrontendKey>,
    answers_here: impl Fn(SocketAddr) -> bool,
) -> Result<usize, ConntrackError> {
    let family = match table.family {
        IpFamily::V4 => Family::Ipv4,
        IpFamily::V6 => Family::Ipv6,
    };
    let filter = Filter { family: Some(family), proto: Some(Protocol::Udp.number()), ..Filter::default() };
    let (mut deleted, mut failed) = (0, None);
    for flow in conntrack.list(&filter)?.iter().filter(|flow| is_stale(table, before, &answers_here, flow)) {
        match conntrack.delete(flow) {
            Ok(gone) => deleted += usize::from(gone),
            // The others go all the same.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(deleted), Err)
}

/// All UDP frontends of a table.
pub(crate) fn frontends(table: &ForwardingTable) -> BTreeSet<FrontendKey> {
    let ports = table.ports.values().filter(|port| port.protocol == Protocol::Udp);
    ports.flat_map(|port| port.frontends.iter().map(|frontend| frontend.key(port.protocol))).collect()
}

fn is_stale(
    table: &ForwardingTable,
    before: &BTreeSet<FrontendKey>,
    answers_here: &impl Fn(SocketAddr) -> bool,
    flow: &Flow,
) -> bool {
    let asked = flow.original.destination;
    let Some(port) = Port::new(asked.port) else { return false };
    let translated = flow.reply.source != asked;
    let by_address = FrontendKey::Address(asked.addr, Protocol::Udp, port);
    let by_node_port = FrontendKey::NodePort(Protocol::Udp, port);
    // Somebody's own traffic to another machine may have the number of a NodePort.
    let to_this_node = translated || table.node_addresses.contains(&asked.addr);
    let owner = table.owner(by_address).or_else(|| table.owner(by_node_port).filter(|_| to_this_node));
    match owner {
        Some((_, service, _)) => {
            let serving = SocketAddr::new(flow.reply.source.addr, flow.reply.source.port);
            let may_stay = &service.flows_may_stay_with;
            !may_stay.contains(&serving) && (may_stay.is_empty() || !answers_here(serving))
        }
        None => translated && (before.contains(&by_address) || before.contains(&by_node_port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conntrack::{Endpoint, FlowId, Status, Tuple};
    use service_model::{Change, Event, NodeView, ServiceModel};

    fn table(endpoints: &str) -> ForwardingTable {
        let mut model = ServiceModel::new();
        let service = r#"{"metadata":{"namespace":"n","name":"s"},"spec":{"type":"NodePort","clusterIPs":["10.96.0.9"],
            "ports":[{"port":53,"protocol":"UDP","nodePort":30053}]}}"#;
        let slice = format!(
            r#"{{"metadata":{{"namespace":"n","name":"s-1","labels":{{"kubernetes.io/service-name":"s"}}}},
            "addressType":"IPv4","ports":[{{"protocol":"UDP","port":5353}}],"endpoints":{endpoints}}}"#
        );
        model.apply(Event::Service(Change::Upsert(serde_json::from_str(service).unwrap())));
        model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_str(&slice).unwrap())));
        let mut node = NodeView::named("here");
        node.addresses.push("172.30.0.11".parse().unwrap());
        model.resolve(&node, IpFamily::V4)
    }

    fn flow(asked: (&str, u16), answers: (&str, u16)) -> Flow {
        let end = |(addr, port): (&str, u16)| Endpoint { addr: addr.parse().unwrap(), port };
        let client = end(("10.244.1.7", 4000));
        let tuple = |source, destination| Tuple { source, destination, proto: 17, icmp: None };
        Flow {
            original: tuple(client, end(asked)),
            reply: tuple(end(answers), client),
            status: Status::default(),
            mark: 0,
            zone: 0,
            id: FlowId(1),
            timeout: None,
            tcp_state: None,
        }
    }

    fn nowhere(_: SocketAddr) -> bool {
        false
    }

    #[test]
    fn flows_to_ourselves_stay_while_anybody_serves() {
        let (some, none) = (table(r#"[{"addresses":["10.244.1.5"]}]"#), table("[]"));
        let ours = ("172.30.0.11", 40_001);
        let here = |address: SocketAddr| address == SocketAddr::new(ours.0.parse().unwrap(), ours.1);
        let flow = flow(("10.96.0.9", 53), ours);
        assert!(!is_stale(&some, &BTreeSet::new(), &here, &flow));
        assert!(is_stale(&some, &BTreeSet::new(), &nowhere, &flow), "left by a process that is gone");
        assert!(is_stale(&none, &BTreeSet::new(), &here, &flow), "the next packet must meet the rules");
    }

    #[test]
    fn flows_go_with_their_endpoint_and_stay_with_one_that_serves() {
        let serving = r#"[{"addresses":["10.244.1.5"]},
                          {"addresses":["10.244.1.6"],"conditions":{"ready":false,"serving":true,"terminating":true}}]"#;
        let (some, none, before) = (table(serving), table("[]"), BTreeSet::new());
        let vip = ("10.96.0.9", 53);
        for endpoint in ["10.244.1.5", "10.244.1.6"] {
            assert!(!is_stale(&some, &before, &nowhere, &flow(vip, (endpoint, 5353))));
            assert!(is_stale(&none, &before, &nowhere, &flow(vip, (endpoint, 5353))), "also when none is left");
        }
        assert!(is_stale(&some, &before, &nowhere, &flow(vip, ("10.244.1.9", 5353))));
        assert!(is_stale(&some, &before, &nowhere, &flow(vip, vip)), "a flow from before the Service");
        assert!(is_stale(&some, &before, &nowhere, &flow(("172.30.0.11", 30053), ("10.244.1.9", 5353))));
        assert!(
            !is_stale(&some, &before, &nowhere, &flow(("198.51.100.1", 30053), ("198.51.100.1", 30053))),
            "not ours"
        );
        assert!(!is_stale(&some, &before, &nowhere, &flow(("10.244.1.9", 5353), ("10.244.1.9", 5353))), "direct");
    }

    #[test]
    fn flows_of_a_service_that_is_gone_go_too() {
        let gone = frontends(&table("[]"));
        let node = NodeView::named("here");
        let empty = ForwardingTable::empty(&node, IpFamily::V4);
        assert!(is_stale(&empty, &gone, &nowhere, &flow(("10.96.0.9", 53), ("10.244.1.5", 5353))));
        assert!(!is_stale(&empty, &BTreeSet::new(), &nowhere, &flow(("10.96.0.9", 53), ("10.244.1.5", 5353))));
    }
}
