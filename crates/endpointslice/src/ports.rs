//! Which numbers a Service's target ports are in a pod. Not responsible for whether anything listens there.

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::Notice;
use crate::service;

/// One port of a slice, ordered so that equal sets of ports are equal lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    pub port: Option<i32>,
    pub app_protocol: Option<String>,
}

impl Port {
    pub fn from_slice(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        }
    }

    pub fn to_slice(&self) -> EndpointPort {
        EndpointPort {
            name: Some(self.name.clone()),
            protocol: Some(self.protocol.clone()),
            port: self.port,
            app_protocol: self.app_protocol.clone(),
        }
    }
}

/// The ports of a slice as a key.
pub fn of_slice(ports: Option<&[EndpointPort]>) -> Vec<Port> {
    let mut ports: Vec<Port> = ports.unwrap_or_default().iter().map(Port::from_slice).collect();
    ports.sort();
    ports
}

/// The Service's ports as numbered in this pod, sorted. A name that the pod does not have is left out, with a notice.
pub fn resolve(service: &Service, pod: &Pod, notices: &mut Vec<Notice>) -> Vec<Port> {
    let mut resolved = Vec::new();
    for port in service::ports(service) {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let number = match target(port) {
            Target::Number(number) => number,
            Target::Name(name) => match named(pod, name, &protocol) {
                Some(number) => number,
                None => {
                    let pod = pod.metadata.name.clone().unwrap_or_default();
                    notices.push(Notice::PortNotFound { pod, port: name.to_owned(), protocol });
                    continue;
                }
            },
        };
        resolved.push(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol,
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        });
    }
    resolved.sort();
    resolved
}

enum Target<'a> {
    Number(i32),
    Name(&'a str),
}

fn target(port: &ServicePort) -> Target<'_> {
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => Target::Number(*number),
        Some(IntOrString::String(name)) if !name.is_empty() => Target::Name(name),
        _ => Target::Number(port.port),
    }
}

/// The first container port of this name and protocol: containers, then init containers that keep running.
fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let sidecars = init.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars).find_map(|container| port_of(container, name, protocol))
}

fn port_of(container: &Container, name: &str, protocol: &str) -> Option<i32> {
    let ports = container.ports.as_deref().unwrap_or_default();
    ports
        .iter()
        .find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|port| port.container_port)
}
