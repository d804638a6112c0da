//! What every system has before the user's manifests: the DNS Service, no nodes of an earlier run, routes to pods.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::fabric::Fabric;
use super::network::{Plan, SERVICE_FLAG};
use super::ready;
use super::view::View;

/// Keeps what must not go missing, as the API server keeps `default/kubernetes`. Fails while somebody else has the
/// address that pods ask for names.
pub async fn keep(client: &Client, plan: &Plan) -> Result<()> {
    dns_service(client, plan).await
}

/// Applies what has to be there before nodes are. Nothing runs yet on the nodes in `new`; what others reported last still holds.
pub async fn apply(client: &Client, plan: &Plan, nodes: &[String], new: &[String]) -> Result<()> {
    same_addresses(client, plan).await?;
    forget_other_nodes(client, nodes).await?;
    forget_other_ranges(client, plan).await?;
    forget_readiness(client, new).await
}

/// `kube-system/kube-dns`, without a selector: every node's agent publishes its own server as an endpoint. What others
/// changed of it is put right, and what they added (a label, say) stays.
async fn dns_service(client: &Client, plan: &Plan) -> Result<()> {
    let api = Api::<Service>::namespaced(client.clone(), "kube-system");
    let reading = "cannot read Service kube-system/kube-dns";
    let ours = wanted_dns_service(plan)?;
    if let Some(found) = api.get_opt("kube-dns").await.context(reading)? {
        if sound(&found, &ours) {
            return Ok(());
        }
        let repairing = "cannot put Service kube-system/kube-dns right";
        let (there, wanted) = (found.spec.unwrap_or_default(), ours.spec.clone().unwrap_or_default());
        if there.cluster_ips == wanted.cluster_ips {
            let right = Patch::Merge(json!({"spec": {"ports": wanted.ports, "selector": null}}));
            api.patch("kube-dns", &PatchParams::default(), &right).await.context(repairing)?;
            return Ok(());
        }
        // Its addresses can't be changed, and are what every pod's resolv.conf says. One more or one less is a system
        // that has got another IP family, or has no longer.
        let deleted = api.delete("kube-dns", &DeleteParams::default()).await;
        deleted.context(repairing)?;
    }
    let Err(error) = api.create(&PostParams::default(), &ours).await else { return Ok(()) };
    let holder = holder(client, plan).await.map(|holder| format!(", which Service {holder} has: delete it"));
    let addresses: Vec<String> = plan.cluster_dns().iter().map(ToString::to_string).collect();
    let (addresses, holder) = (addresses.join(" and "), holder.unwrap_or_default());
    Err(error).with_context(|| {
        format!("no name is found: cannot make Service kube-system/kube-dns with address {addresses}{holder}")
    })
}

/// The Service that has an address of the DNS Service's.
async fn holder(client: &Client, plan: &Plan) -> Option<String> {
    let ours: BTreeSet<String> = plan.cluster_dns().iter().map(ToString::to_string).collect();
    let services = Api::<Service>::all(client.clone()).list(&ListParams::default()).await.ok()?;
    let has = |service: &&Service| {
        if service.name_any() == "kube-dns" && service.namespace().as_deref() == Some("kube-system") {
            return false;
        }
        let addresses = service.spec.as_ref().and_then(|spec| spec.cluster_ips.as_ref());
        addresses.is_some_and(|addresses| addresses.iter().any(|address| ours.contains(address)))
    };
    let holder = services.iter().find(has)?;
    Some(format!("{}/{}", holder.namespace().unwrap_or_default(), holder.name_any()))
}

/// Whether names are found by it.
fn sound(found: &Service, ours: &Service) -> bool {
    let (Some(found), Some(ours)) = (&found.spec, &ours.spec) else { return false };
    let ports = |spec: &ServiceSpec| -> BTreeSet<(Option<String>, i32, Option<String>)> {
        let ports = spec.ports.iter().flatten();
        ports.map(|port| (port.name.clone(), port.port, port.protocol.clone())).collect()
    };
    let selects = found.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    found.cluster_ips == ours.cluster_ips && !selects && ports(ours).is_subset(&ports(found))
}

fn wanted_dns_service(plan: &Plan) -> Result<Service> {
    let addresses: Vec<String> = plan.cluster_dns().iter().map(ToString::to_string).collect();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"},
        },
        "spec": {
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            // A node's pods ask the node's own server while it's ready.
            "trafficDistribution": "PreferSameNode",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "protocol": "TCP"},
            ],
        },
    });
    serde_json::from_value(service).context("the DNS Service")
}

/// An earlier run may have had more nodes: they and their pods are gone, and nothing else would say so.
async fn forget_other_nodes(client: &Client, nodes: &[String]) -> Result<()> {
    let api = Api::<Node>::all(client.clone());
    let at_once = DeleteParams::default().grace_period(0);
    let known = api.list(&ListParams::default()).await.context("cannot list nodes")?;
    let gone: BTreeSet<String> = known.iter().map(ResourceExt::name_any).filter(|n| !nodes.contains(n)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    // First the nodes: a pod's replacement must find no node of them to be put on.
    for node in &gone {
        api.delete(node, &DeleteParams::default()).await.with_context(|| format!("cannot delete node {node}"))?;
    }
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await.context("cannot list pods")?;
    for pod in &pods {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        if gone.contains(&node) {
            let namespace = pod.namespace().unwrap_or_default();
            let deleted = Api::<Pod>::namespaced(client.clone(), &namespace).delete(&pod.name_any(), &at_once).await;
            deleted.with_context(|| format!("cannot delete pod {namespace}/{}", pod.name_any()))?;
        }
    }
    Ok(())
}

/// The objects' addresses are kept with them: under another range they would lead nowhere.
async fn same_addresses(client: &Client, plan: &Plan) -> Result<()> {
    let api = Api::<Service>::namespaced(client.clone(), "default");
    let known = api.get_opt("kubernetes").await.context("cannot read Service default/kubernetes")?;
    let known = known.and_then(|service| service.spec).and_then(|spec| spec.cluster_ip);
    let expected = plan.first_services().first().map(ToString::to_string);
    if let (Some(known), Some(expected)) = (known, expected) {
        ensure!(
            known == expected,
            "the Services in this data directory have addresses of another {SERVICE_FLAG} (default/kubernetes has \
             {known}, not {expected}): start with that one, or choose another --data-dir"
        );
    }
    Ok(())
}

/// A node keeps its pods' range for as long as it exists: where that is none of ours any more, or of one IP family in a
/// system of two, it begins anew. Its pods stay bound to it and get new addresses.
async fn forget_other_ranges(client: &Client, plan: &Plan) -> Result<()> {
    let api = Api::<Node>::all(client.clone());
    let ours = plan.pods();
    for node in api.list(&ListParams::default()).await.context("cannot list nodes")? {
        let ranges = node::network::pod_cidrs(&node);
        let fits = ranges.len() == ours.len() && ours.iter().zip(&ranges).all(|(ours, range)| ours.contains(range));
        if !ranges.is_empty() && !fits {
            let name = node.name_any();
            api.delete(&name, &DeleteParams::default()).await.with_context(|| format!("cannot delete node {name}"))?;
        }
    }
    Ok(())
}

/// Nothing runs yet on these nodes, whatever was ready when they ended: only what is reported from now on counts.
pub async fn forget_readiness(client: &Client, of: &[String]) -> Result<()> {
    if of.is_empty() {
        return Ok(());
    }
    let params = PatchParams::default();
    let condition = |kind: &str, status: &str| {
        let now = Time(Timestamp::now());
        let (reason, message) = ("NodeStatusUnknown", "the system has started and the node has not reported yet");
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now})
    };
    let nodes = Api::<Node>::all(client.clone());
    let unknown = Patch::Strategic(json!({"status": {"conditions": [condition("Ready", "Unknown")]}}));
    for node in nodes.list(&ListParams::default()).await.context("cannot list nodes")? {
        let name = node.name_any();
        if !of.contains(&name) {
            continue;
        }
        nodes.patch_status(&name, &params, &unknown).await.with_context(|| format!("cannot reset node {name}"))?;
    }
    // Each node's agent publishes its DNS server again when that is ready.
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "kube-system");
    let of_agents = ListParams::default().labels("endpointslice.kubernetes.io/managed-by=portolan-node");
    for slice in slices.list(&of_agents).await.context("cannot list the DNS servers' slices")? {
        let name = slice.name_any();
        if !slice.endpoints.iter().flatten().any(|e| e.node_name.as_ref().is_some_and(|node| of.contains(node))) {
            continue;
        }
        slices.delete(&name, &DeleteParams::default()).await.with_context(|| format!("cannot delete slice {name}"))?;
    }
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await.context("cannot list pods")?;
    let conditions = [condition("Ready", "False"), condition("ContainersReady", "False")];
    let unready = Patch::Strategic(json!({"status": {"conditions": conditions}}));
    let theirs =
        |pod: &&Pod| pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_some_and(|node| of.contains(node));
    for pod in pods.iter().filter(theirs).filter(|pod| ready::pod_ready(pod)) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let reset = Api::<Pod>::namespaced(client.clone(), &namespace).patch_status(&name, &params, &unready).await;
        reset.with_context(|| format!("cannot reset pod {namespace}/{name}"))?;
    }
    Ok(())
}

/// The host's and the fabric's routes to the pods of each node.
#[derive(Default)]
pub struct PodRoutes(BTreeMap<String, Vec<IpNet>>);

impl PodRoutes {
    /// Adds what is new.
    pub async fn follow(&mut self, view: &View, plan: &Plan, fabric: &Fabric) -> Result<()> {
        for node in &view.nodes {
            let name = node.name_any();
            let pods = node::network::pod_cidrs(node);
            if pods.is_empty() || self.0.get(&name) == Some(&pods) {
                continue;
            }
            let address = node.status.as_ref().and_then(|s| s.addresses.as_ref());
            let address = address.into_iter().flatten().find(|a| a.type_ == "InternalIP").map(|a| a.address.clone());
            let Some(index) = address.and_then(|a| a.parse().ok()).and_then(|a| plan.node_of(a)) else { continue };
            for pods in &pods {
                fabric.route_pods(*pods, index).await?;
            }
            self.0.insert(name, pods);
        }
        Ok(())
    }
}
