//! The v1 Endpoints object of a Service, for readers older than slices. Not responsible for hand-written Endpoints.

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::labels::{self, ENDPOINTS_CONTROLLER, ENDPOINTS_MANAGED_BY, LEADER, OVER_CAPACITY, TRIGGER_TIME};
use crate::service::{self, Family};
use crate::subsets::{self, Pairs, Subset};
use crate::{Notice, Options, pods, ports};

/// Addresses that one Endpoints object holds.
pub const CAPACITY: usize = 1000;

/// What to do about a Service's Endpoints.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointsPlan {
    Keep,
    Create(Box<Endpoints>),
    Update(Box<Endpoints>),
    Delete,
}

/// Plans the Endpoints of a Service. `pods` are candidates of its namespace.
pub fn plan(
    service: Option<&Service>,
    pods: &[&Pod],
    existing: Option<&Endpoints>,
    options: &Options,
) -> EndpointsPlan {
    let Some(service) = service else { return orphan(existing) };
    if service::is_external_name(service) {
        let ours = existing.is_some_and(|e| labels::has(&e.metadata, ENDPOINTS_MANAGED_BY, ENDPOINTS_CONTROLLER));
        return if ours { EndpointsPlan::Delete } else { EndpointsPlan::Keep };
    }
    if service::selector(service).is_none() || service.metadata.deletion_timestamp.is_some() {
        return EndpointsPlan::Keep;
    }
    let mut wanted = wanted(service, pods);
    let truncated = truncate(&mut wanted);
    let labels = labels::for_endpoints(service);
    if let Some(existing) = existing {
        let marked = annotation(&existing.metadata, OVER_CAPACITY) == Some("truncated");
        let held = subsets::canonical(existing.subsets.as_deref().unwrap_or_default());
        let same = held == wanted && existing.metadata.labels.as_ref() == Some(&labels);
        if same && marked == truncated {
            return EndpointsPlan::Keep;
        }
    }
    let mut metadata = existing.map_or_else(|| named(service), |existing| existing.metadata.clone());
    metadata.labels = Some(labels);
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove(OVER_CAPACITY);
    annotations.extend(options.trigger.map(|at| (TRIGGER_TIME.to_owned(), labels::stamp(at))));
    annotations.extend(truncated.then(|| (OVER_CAPACITY.to_owned(), "truncated".to_owned())));
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let endpoints = Box::new(Endpoints { metadata, subsets: Some(wanted.into_iter().map(Subset::render).collect()) });
    if existing.is_some() { EndpointsPlan::Update(endpoints) } else { EndpointsPlan::Create(endpoints) }
}

/// Endpoints whose Service is gone go too, except those that are somebody's leader election.
fn orphan(existing: Option<&Endpoints>) -> EndpointsPlan {
    match existing {
        Some(existing) if annotation(&existing.metadata, LEADER).is_none() => EndpointsPlan::Delete,
        _ => EndpointsPlan::Keep,
    }
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn named(service: &Service) -> ObjectMeta {
    ObjectMeta {
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone(),
        ..ObjectMeta::default()
    }
}

fn wanted(service: &Service, pods: &[&Pod]) -> Vec<Subset> {
    let family = service::families(service).into_iter().next().unwrap_or(Family::V4);
    let publish_anyway = service::publishes_not_ready(service);
    let mut pairs = Pairs::default();
    // Port names that do not resolve are told by the slices' plan.
    let mut told: Vec<Notice> = Vec::new();
    for pod in pods.iter().filter(|pod| service::selects(service, &pod.metadata)) {
        let leaving = pods::is_terminating(pod) && !publish_anyway;
        let address = pods::addresses(pod).into_iter().find(|address| Family::of(*address) == family);
        let Some(address) = address.filter(|_| !leaving && !pods::is_terminal(pod)) else { continue };
        let ports = ports::resolve(service, pod, &mut told);
        if ports.is_empty() && !service::ports(service).is_empty() {
            continue;
        }
        let address = EndpointAddress {
            ip: address.to_string(),
            hostname: pods::hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(pods::target(pod)),
        };
        pairs.add(address, &ports, publish_anyway || pods::is_ready(pod));
    }
    pairs.subsets()
}

/// Cuts every subset in proportion to its size, not ready addresses first. Tells whether anything was cut.
fn truncate(subsets: &mut Vec<Subset>) -> bool {
    let ready: usize = subsets.iter().map(|subset| subset.ready.len()).sum();
    let not_ready: usize = subsets.iter().map(|subset| subset.not_ready.len()).sum();
    if ready + not_ready <= CAPACITY {
        return false;
    }
    let keep_ready = ready.min(CAPACITY);
    let keep_not_ready = CAPACITY - keep_ready;
    share(subsets.iter_mut().map(|subset| &mut subset.ready).collect(), ready, keep_ready);
    share(subsets.iter_mut().map(|subset| &mut subset.not_ready).collect(), not_ready, keep_not_ready);
    subsets.retain(|subset| !subset.ready.is_empty() || !subset.not_ready.is_empty());
    true
}

fn share(lists: Vec<&mut Vec<EndpointAddress>>, total: usize, keep: usize) {
    let (mut seen, mut kept) = (0, 0);
    for list in lists {
        seen += list.len();
        // Cumulative, so that rounding never loses or gains one overall.
        let upto = (seen * keep).checked_div(total).unwrap_or(0);
        list.truncate(upto - kept);
        kept = upto;
    }
}
