//! Whatever happens in whatever order, a table kept up to date change by change equals one resolved from nothing.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use service_model::{Change, EndpointSlice, Event, IpFamily, NodeView, ObjectName, Service, ServiceModel};

/// Few names and addresses, so that changes meet: conflicts over an external IP included.
fn a_service() -> impl Strategy<Value = Service> {
    (0..5u8, 0..3u8, any::<bool>(), 1..4usize, 0..3u8).prop_map(|(name, external, local, ports, kind)| {
        let ports: Vec<_> = (0..ports)
            .map(|port| json!({"name": format!("p{port}"), "port": 80 + port, "nodePort": if kind == 1 { 30000 + port } else { 0 }}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": format!("s{name}"),
                         "labels": if kind == 2 { json!({"service.kubernetes.io/headless": ""}) } else { json!({}) }},
            "spec": {"type": "NodePort", "clusterIPs": [format!("10.96.0.{name}")],
                     "externalIPs": [format!("192.0.2.{external}")], "ports": ports,
                     "externalTrafficPolicy": if local { "Local" } else { "Cluster" }}
        }))
        .unwrap()
    })
}

fn a_slice() -> impl Strategy<Value = EndpointSlice> {
    (0..5u8, 0..3u8, proptest::collection::vec((1..9u8, any::<bool>(), any::<bool>()), 0..5)).prop_map(
        |(service, slice, endpoints)| {
            let endpoints: Vec<_> = endpoints
                .into_iter()
                .map(|(address, ready, here)| {
                    json!({"addresses": [format!("10.244.1.{address}")], "conditions": {"ready": ready},
                           "nodeName": if here { "here" } else { "there" }})
                })
                .collect();
            serde_json::from_value(json!({
                "metadata": {"namespace": "ns", "name": format!("slice{slice}"),
                             "labels": {"kubernetes.io/service-name": format!("s{service}")}},
                "addressType": "IPv4", "ports": [{"name": "p0", "port": 8080}, {"name": "p1", "port": 8081}],
                "endpoints": endpoints
            }))
            .unwrap()
        },
    )
}

fn an_event() -> impl Strategy<Value = Event> {
    let name = |kind: &'static str| {
        (0..5u8).prop_map(move |n| ObjectName { namespace: "ns".into(), name: format!("{kind}{n}") })
    };
    prop_oneof![
        6 => a_service().prop_map(|service| Event::Service(Change::Upsert(service))),
        2 => name("s").prop_map(|name| Event::Service(Change::Delete(name))),
        1 => proptest::collection::vec(a_service(), 0..4).prop_map(|all| Event::Service(Change::Relist(all))),
        6 => a_slice().prop_map(|slice| Event::EndpointSlice(Change::Upsert(slice))),
        2 => name("slice").prop_map(|name| Event::EndpointSlice(Change::Delete(name))),
        1 => proptest::collection::vec(a_slice(), 0..4).prop_map(|all| Event::EndpointSlice(Change::Relist(all))),
    ]
}

proptest! {
    #[test]
    fn incremental_equals_full(events in proptest::collection::vec((an_event(), any::<bool>()), 1..40)) {
        let node = NodeView::named("here");
        let mut model = ServiceModel::new();
        let mut kept = model.resolve(&node, IpFamily::V4);
        for (event, update_now) in events {
            model.apply(event);
            if !update_now {
                continue;
            }
            let before = kept.ports.clone();
            model.update(&mut kept, &node);
            let whole = model.resolve(&node, IpFamily::V4);
            prop_assert!(kept.same_result(&whole), "kept {kept:#?}\nwhole {whole:#?}");
            // The hint names every port that differs, and equal ports keep their identity.
            let names = before.keys().chain(kept.ports.keys());
            for name in names {
                let same = match (before.get(name), kept.ports.get(name)) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                    _ => false,
                };
                prop_assert_eq!(!same, kept.changes.ports.contains(name), "{}", name);
            }
        }
    }
}

#[test]
fn a_conflict_over_an_address_ends_when_its_owner_goes() {
    let service = |name: &str, ip: u8| -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name},
            "spec": {"clusterIPs": [format!("10.96.0.{ip}")], "externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]}}))
        .unwrap()
    };
    let node = NodeView::named("here");
    let mut model = ServiceModel::new();
    model.apply(Event::Service(Change::Relist(vec![service("b", 2), service("a", 1)])));
    let mut table = model.resolve(&node, IpFamily::V4);
    let owned = |table: &service_model::ForwardingTable| -> Vec<usize> {
        table.ports.values().map(|port| port.frontends.len()).collect()
    };
    assert_eq!(owned(&table), [2, 1]);
    assert_eq!(table.problems().len(), 1);
    model.apply(Event::Service(Change::Delete(ObjectName { namespace: "ns".into(), name: "a".into() })));
    model.update(&mut table, &node);
    assert_eq!(owned(&table), [2]);
    assert!(table.problems().is_empty());
}
