//! Plans and their execution, by table.

use super::*;

struct Taken(Vec<IpAddr>, Vec<u16>);

impl Occupancy for Taken {
    fn address_free(&self, address: IpAddr) -> bool {
        !self.0.contains(&address)
    }

    fn port_free(&self, port: u16) -> bool {
        !self.1.contains(&port)
    }
}

fn cluster(cidrs: &[&str]) -> Cluster {
    let service_cidrs = cidrs.iter().map(|cidr| cidr.parse().expect("a range")).collect();
    Cluster { service_cidrs, node_ports: 30000..=32767 }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": "web"}, "spec": {"selector": {"a": "b"}}});
    object["spec"].as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
    super::super::defaults::apply(&mut object);
    object
}

/// Plans and executes; answers the object, what it took and what it gives back.
fn run(
    new: Value,
    old: Option<&Value>,
    cluster: &Cluster,
    taken: &Taken,
) -> Result<(Value, Allocated, AllocationPlan), String> {
    let mut new = service(new);
    let written = |error: AllocationError| match error {
        AllocationError::Invalid(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    };
    let plan = plan(&mut new, old, cluster).map_err(written)?;
    let allocated = execute(&plan, &mut new, cluster, taken, 0).map_err(written)?;
    Ok((new, allocated, plan))
}

const NOTHING: Taken = Taken(Vec::new(), Vec::new());

#[test]
fn addresses_on_create() {
    let v4 = &["10.0.0.0/24"][..];
    let dual = &["10.0.0.0/24", "fd00::/112"][..];
    let cases = [
        (v4, json!({}), json!(["10.0.0.17"])),
        (v4, json!({"clusterIP": "10.0.0.5"}), json!(["10.0.0.5"])),
        (v4, json!({"clusterIP": "None"}), json!(["None"])),
        (v4, json!({"type": "ExternalName"}), json!(null)),
        (dual, json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["10.0.0.17", "fd00::101"])),
        (
            dual,
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
            json!(["fd00::101", "10.0.0.17"]),
        ),
        (
            dual,
            json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd00::7", "clusterIPs": ["fd00::7"]}),
            json!(["fd00::7", "10.0.0.17"]),
        ),
    ];
    for (cidrs, spec, expected) in cases {
        let (object, allocated, _) = run(spec.clone(), None, &cluster(cidrs), &NOTHING).expect("allocated");
        assert_eq!(object["spec"]["clusterIPs"], expected, "{spec}");
        assert_eq!(object["spec"]["clusterIP"], expected[0], "{spec}");
        let real = texts(&expected).into_iter().filter_map(parse_ip).collect::<Vec<_>>();
        assert_eq!(allocated.addresses, real, "{spec}");
    }
}

#[test]
fn refusals() {
    let taken = Taken(vec![ip("10.0.0.5")], vec![30080]);
    let full = Taken((0..=255).map(|i| ip(&format!("10.0.0.{i}"))).collect(), (30000..=32767).collect());
    let balancer = |extra: Value| {
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false,
                              "clusterIP": "10.0.0.9", "ports": [{"port": 80}]});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        spec
    };
    let node_port = |ports: Value| json!({"type": "NodePort", "ports": ports});
    let cases = [
        (
            &taken,
            json!({"clusterIP": "10.0.0.5"}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.5\"]: failed to allocate IP 10.0.0.5: provided IP is already allocated",
        ),
        (
            &taken,
            json!({"clusterIP": "10.9.0.5"}),
            "spec.clusterIPs: Invalid value: [\"10.9.0.5\"]: failed to allocate IP 10.9.0.5: the provided network does not \
             match the current range",
        ),
        (
            &taken,
            json!({"clusterIP": "10.0.0.255"}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.255\"]: failed to allocate IP 10.0.0.255: the provided IP (10.0.0.255) \
             is not in the valid range. The range of valid IPs is 10.0.0.0/24",
        ),
        (&full, json!({}), "failed to allocate a serviceIP for Service \"web\": range is full"),
        (
            &taken,
            node_port(json!([{"port": 80}, {"name": "b", "port": 81, "nodePort": 30080}])),
            "spec.ports[1].nodePort: Invalid value: 30080: provided port is already allocated",
        ),
        (
            &taken,
            node_port(json!([{"port": 80, "nodePort": 80}])),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is \
             30000-32767",
        ),
        (
            &taken,
            node_port(
                json!([{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30001}]),
            ),
            "spec.ports[1].nodePort: Invalid value: 30001: provided port is already allocated",
        ),
        (
            &Taken(Vec::new(), (30000..=32767).collect()),
            node_port(json!([{"port": 80}])),
            "failed to allocate a nodePort: range is full",
        ),
        (
            &taken,
            balancer(json!({"healthCheckNodePort": 30080})),
            "failed to allocate requested HealthCheck NodePort 30080: provided port is already allocated",
        ),
        (
            &Taken(Vec::new(), (30000..=32767).collect()),
            balancer(json!({})),
            "failed to allocate a HealthCheck NodePort 0: range is full",
        ),
    ];
    for (taken, spec, expected) in cases {
        let error = run(spec.clone(), None, &cluster(&["10.0.0.0/24"]), taken).expect_err("refused");
        assert_eq!(error, expected, "{spec}");
    }
}

#[test]
fn node_ports_on_create() {
    let cases = [
        (json!({"type": "ClusterIP", "ports": [{"port": 80}]}), json!([null])),
        (json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}), json!([30086, 30087])),
        (json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}), json!([30086, 30086])),
        (
            json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "nodePort": 30053}]}),
            json!([30053, 30053]),
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30054}, {"port": 53, "nodePort": 30053}]}),
            json!([30054, 30053]),
        ),
        (
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                   "ports": [{"port": 80}, {"port": 81, "nodePort": 30001}]}),
            json!([null, 30001]),
        ),
    ];
    for (spec, expected) in cases {
        let (object, allocated, _) = run(spec.clone(), None, &cluster(&["10.0.0.0/24"]), &NOTHING).expect("allocated");
        let ports: Vec<Value> = list(&object["spec"]["ports"]).iter().map(|port| port["nodePort"].clone()).collect();
        assert_eq!(Value::Array(ports.clone()), expected, "{spec}");
        let distinct: BTreeSet<i64> = ports.iter().filter_map(Value::as_i64).collect();
        assert_eq!(allocated.ports.len(), distinct.len(), "{spec}");
    }
}

#[test]
fn health_checks() {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let (object, allocated, plan) = run(spec, None, &cluster(&["10.0.0.0/24"]), &NOTHING).expect("allocated");
    assert_eq!(object["spec"]["healthCheckNodePort"], 30087);
    assert_eq!(allocated.ports, [30086, 30087]);
    assert_eq!(plan.health_check, Some(HealthCheckNeed { explicit: None }));
    let gone = plan_delete(&object);
    assert_eq!((gone.release_ips, gone.release_ports), (vec![ip("10.0.0.17")], vec![30086, 30087]));

    let mut cluster_policy = object["spec"].clone();
    cluster_policy["externalTrafficPolicy"] = json!("Cluster");
    let (_, allocated, plan) =
        run(cluster_policy, Some(&object), &cluster(&["10.0.0.0/24"]), &NOTHING).expect("planned");
    assert_eq!((allocated, plan.release_ports), (Allocated::default(), vec![30087]));
}

#[test]
fn changes() {
    let dual = cluster(&["10.0.0.0/24", "fd00::/112"]);
    let (node_port, ..) =
        run(json!({"type": "NodePort", "ports": [{"port": 80}]}), None, &dual, &NOTHING).expect("allocated");
    let taken = Taken(vec![ip("10.0.0.17")], vec![30086]);

    // The same manifest again takes nothing and gives nothing back.
    let (same, allocated, plan) =
        run(json!({"type": "NodePort", "ports": [{"port": 80}]}), Some(&node_port), &dual, &taken).expect("planned");
    assert_eq!((&same["spec"], allocated, plan), (&node_port["spec"], Allocated::default(), AllocationPlan::default()));

    // To another type: the ports go back, the address stays.
    let (_, allocated, plan) =
        run(json!({"type": "ClusterIP", "ports": [{"port": 80}]}), Some(&node_port), &dual, &taken).expect("planned");
    assert_eq!((allocated, &plan.release_ports[..], plan.release_ips.len()), (Allocated::default(), &[30086][..], 0));

    // To ExternalName and back.
    let external = json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]});
    let (external, _, plan) = run(external, Some(&node_port), &dual, &taken).expect("planned");
    assert_eq!((&plan.release_ports[..], &plan.release_ips[..]), (&[30086][..], &[ip("10.0.0.17")][..]));
    let (back, allocated, _) =
        run(json!({"ports": [{"port": 80}]}), Some(&external), &dual, &NOTHING).expect("allocated");
    assert_eq!((back["spec"]["clusterIP"].clone(), allocated.addresses), (json!("10.0.0.17"), vec![ip("10.0.0.17")]));

    // A second family comes and goes.
    let prefer = json!({"type": "NodePort", "ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"});
    let (prefer, allocated, _) = run(prefer, Some(&node_port), &dual, &taken).expect("allocated");
    assert_eq!(prefer["spec"]["clusterIPs"], json!(["10.0.0.17", "fd00::101"]));
    assert_eq!(allocated.addresses, [ip("fd00::101")]);
    let single = json!({"type": "NodePort", "ports": [{"port": 80}], "ipFamilyPolicy": "SingleStack"});
    let (single, _, plan) = run(single, Some(&prefer), &dual, &taken).expect("planned");
    assert_eq!(single["spec"]["clusterIPs"], json!(["10.0.0.17"]));
    assert_eq!(plan.release_ips, [ip("fd00::101")]);

    // One port is exchanged for another.
    let moved = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]});
    let (_, allocated, plan) = run(moved, Some(&node_port), &dual, &taken).expect("allocated");
    assert_eq!((allocated.ports, plan.release_ports), (vec![30001], vec![30086]));
}

#[test]
fn dry_runs_show_placeholders() {
    let cluster = cluster(&["10.0.0.0/24"]);
    let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "nodePort": 30001}]}));
    let plan = plan(&mut new, None, &cluster).expect("planned");
    execute_dry_run(&plan, &mut new, &cluster).expect("addresses in range");
    assert_eq!(new["spec"]["clusterIP"], "10.0.0.0");
    assert_eq!(node_ports(&new), [32769, 30001]);
}

#[test]
fn several_ranges_of_a_family_are_used_in_turn() {
    let cluster = cluster(&["10.0.0.0/30", "10.1.0.0/24"]);
    let full = Taken(vec![ip("10.0.0.1"), ip("10.0.0.2")], Vec::new());
    let (object, ..) = run(json!({}), None, &cluster, &full).expect("allocated");
    assert_eq!(object["spec"]["clusterIP"], "10.1.0.17");
    assert_eq!(cluster.families(), [IpFamily::V4]);
}
