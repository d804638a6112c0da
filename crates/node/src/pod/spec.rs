//! Views of a Pod that the agent's decisions are written in.
//!
//! Not responsible for defaults of the API (objects arrive defaulted; what may still be missing gets the same default
//! here).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use pod_runtime::{HostPort, OfNode, PortProtocol, SandboxId, SandboxSpec};

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others, ends after them (KEP-753).
    Sidecar,
    Main,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// A container with its role.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    pub role: Role,
    pub container: &'a Container,
}

impl<'a> Member<'a> {
    pub fn name(&self) -> &'a str {
        &self.container.name
    }

    /// Whether a container that ended is started again.
    pub fn restarts(&self, policy: RestartPolicy, exit_code: i32) -> bool {
        match (self.role, policy) {
            (Role::Sidecar, _) => true,
            (Role::Init, RestartPolicy::Never) => false,
            (Role::Init, _) => exit_code != 0,
            (Role::Main, RestartPolicy::Always) => true,
            (Role::Main, RestartPolicy::OnFailure) => exit_code != 0,
            (Role::Main, RestartPolicy::Never) => false,
        }
    }

    /// Whether a run of `image` isn't what the pod asks for any more. An init container has done its part.
    pub fn is_changed(&self, image: &str) -> bool {
        self.role != Role::Init && self.container.image.as_deref().is_some_and(|wanted| wanted != image)
    }

    /// How an Event's `involvedObject.fieldPath` names it.
    pub fn field_path(&self) -> String {
        let list = if self.role == Role::Main { "containers" } else { "initContainers" };
        format!("spec.{list}{{{}}}", self.container.name)
    }
}

/// Which object: uid included, since a name can be taken again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodKey {
    pub fn of(pod: &Pod) -> Self {
        PodKey {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }

    pub fn of_sandbox(sandbox: &SandboxSpec) -> Self {
        PodKey { namespace: sandbox.namespace.clone(), name: sandbox.name.clone(), uid: sandbox.uid.clone() }
    }

    /// As kubelet writes it in messages.
    pub fn long(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// The sandbox of a pod's `attempt`-th network and namespaces. Derived, so that a repeated call after a crash
    /// meets what the first one made.
    pub fn sandbox(&self, attempt: u32) -> SandboxId {
        SandboxId(format!("{}-{attempt}", self.uid))
    }
}

/// The attempt that a sandbox id was made for.
pub fn sandbox_attempt(id: &SandboxId) -> u32 {
    id.0.rsplit_once('-').and_then(|(_, attempt)| attempt.parse().ok()).unwrap_or(0)
}

static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// A Pod without a spec is as good as one without containers.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// All containers: init containers and sidecars in order, then the main ones.
pub fn members(pod: &Pod) -> impl Iterator<Item = Member<'_>> {
    init_members(pod).chain(main_members(pod))
}

pub fn init_members(pod: &Pod) -> impl Iterator<Item = Member<'_>> {
    spec(pod).init_containers.iter().flatten().map(|container| Member {
        role: if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init },
        container,
    })
}

pub fn main_members(pod: &Pod) -> impl Iterator<Item = Member<'_>> {
    spec(pod).containers.iter().map(|container| Member { role: Role::Main, container })
}

pub fn member<'a>(pod: &'a Pod, name: &str) -> Option<Member<'a>> {
    members(pod).find(|member| member.container.name == name)
}

pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    match spec(pod).restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

pub fn of_node(pod: &Pod) -> OfNode {
    let spec = spec(pod);
    OfNode { processes: spec.host_pid == Some(true), ipc: spec.host_ipc == Some(true) }
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// The node's ports that lead to the pod. On the node's network they are the pod's own.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    if host_network(pod) {
        return Vec::new();
    }
    let ports = members(pod).flat_map(|member| member.container.ports.iter().flatten());
    let mapped = ports.filter_map(|port| {
        let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
        let host_ip: Option<IpAddr> = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
        Some(HostPort {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => PortProtocol::Udp,
                Some("SCTP") => PortProtocol::Sctp,
                _ => PortProtocol::Tcp,
            },
            host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
            host_port: number(port.host_port?)?,
            container_port: number(port.container_port)?,
        })
    });
    mapped.collect()
}

/// The time containers get to end by themselves. At least a second, as kubelet has it.
pub fn grace(pod: &Pod) -> Duration {
    let seconds = match pod.metadata.deletion_timestamp {
        Some(_) => pod.metadata.deletion_grace_period_seconds.or(spec(pod).termination_grace_period_seconds),
        None => spec(pod).termination_grace_period_seconds,
    };
    Duration::from_secs(seconds.unwrap_or(30).max(1).unsigned_abs())
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// A pod that has ended for good: nothing in it is started again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The port of a probe or hook: a number, or the name of a port of the container.
pub fn resolve_port(
    container: &Container,
    port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
) -> Option<u16> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse::<i32>() {
            Ok(number) => number,
            Err(_) => {
                let ports = container.ports.iter().flatten();
                ports.filter(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port).next()?
            }
        },
    };
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// Names that a pod's objects of one kind are asked for by, without repetition.
pub type Names = BTreeSet<String>;

#[cfg(test)]
pub mod testing {
    //! Pods written as JSON.

    use super::*;

    pub fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u1", "generation": 1, "resourceVersion": "1"},
            "spec": spec,
        }))
        .expect("the test's pod is one")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::pod;
    use super::*;
    use serde_json::json;

    #[test]
    fn roles_and_restarts_follow_the_policies() {
        let pod = pod(json!({
            "initContainers": [{"name": "a"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "m"}],
        }));
        let roles: Vec<_> = members(&pod).map(|m| (m.name().to_owned(), m.role)).collect();
        assert_eq!(roles, [("a".into(), Role::Init), ("s".into(), Role::Sidecar), ("m".into(), Role::Main)]);
        use RestartPolicy::*;
        let table = [
            (0, Always, 0, false),
            (0, Always, 1, true),
            (0, OnFailure, 1, true),
            (0, Never, 1, false),
            (1, Never, 0, true),
            (2, Always, 0, true),
            (2, OnFailure, 0, false),
            (2, OnFailure, 3, true),
            (2, Never, 3, false),
        ];
        let all: Vec<_> = members(&pod).collect();
        for (index, policy, code, expected) in table {
            assert_eq!(all[index].restarts(policy, code), expected, "{index} {policy:?} {code}");
        }
    }

    #[test]
    fn host_ports_are_those_of_pods_with_a_network_of_their_own() {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
            {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "172.30.0.11"}]);
        let containers = json!([{"name": "m", "ports": ports}]);
        let found = host_ports(&pod(json!({"containers": containers})));
        let (host_ip, protocol) = (Some("172.30.0.11".parse().unwrap()), PortProtocol::Udp);
        let tcp = HostPort { protocol: PortProtocol::Tcp, host_ip: None, host_port: 8080, container_port: 80 };
        assert_eq!(found, [tcp, HostPort { protocol, host_ip, host_port: 5353, container_port: 53 }]);
        assert!(host_ports(&pod(json!({"hostNetwork": true, "containers": containers}))).is_empty());
    }

    #[test]
    fn ports_resolve_by_number_and_name() {
        use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
        let pod = pod(json!({"containers": [{"name": "m", "ports": [{"name": "http", "containerPort": 8080}]}]}));
        let container = &spec(&pod).containers[0];
        assert_eq!(resolve_port(container, &IntOrString::Int(80)), Some(80));
        assert_eq!(resolve_port(container, &IntOrString::String("81".into())), Some(81));
        assert_eq!(resolve_port(container, &IntOrString::String("http".into())), Some(8080));
        assert_eq!(resolve_port(container, &IntOrString::String("grpc".into())), None);
        assert_eq!(resolve_port(container, &IntOrString::Int(70000)), None);
    }
}
