//! Says that ServiceCIDRs are ready, and keeps those that are being deleted while addresses out of them are in use
//! (KEP-1880). Not responsible for giving addresses out: the API server does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use runtime::{Key, Next, Objects, Reconcile, WriteError};
use serde_json::{Value, json};

use crate::cluster::{Cluster, mark_self};

const FINALIZER: &str = api::networking::service_cidr::FINALIZER;
/// How long after a deletion addresses may still be on their way out of the range.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How soon to look again at what addresses still hold.
const AGAIN: Duration = Duration::from_secs(5);

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue::<Key>();
    let cidrs = cluster.objects::<ServiceCIDR>("servicecidrs");
    mark_self(&cidrs, &queue);
    cluster.drive("service-cidr", Ranges { client: cluster.client.clone(), cidrs }, queue, 1);
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot list the addresses that may use ServiceCIDR {name}")]
    List { name: String, source: Box<kube::Error> },
    #[error(transparent)]
    Write(#[from] WriteError),
}

struct Ranges {
    client: Client,
    cidrs: Objects<ServiceCIDR>,
}

impl Reconcile for Ranges {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(cidr) = self.cidrs.cache().get(key) else { return Ok(Next::Wait) };
        let held = cidr.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let Some(deleted) = cidr.metadata.deletion_timestamp.as_ref().map(|time| time.0) else {
            if !held {
                self.set_finalizers(&cidr, |finalizers| finalizers.push(FINALIZER.to_owned())).await?;
            }
            self.say_ready(&cidr).await?;
            return Ok(Next::Wait);
        };
        if !held {
            return Ok(Next::Wait);
        }
        if self.in_use(&cidr).await? {
            self.say_terminating(&cidr).await?;
            return Ok(Next::After(AGAIN));
        }
        let left = GRACE - Timestamp::now().duration_since(deleted);
        if left.is_positive() {
            return Ok(Next::After(left.unsigned_abs()));
        }
        self.set_finalizers(&cidr, |finalizers| finalizers.retain(|finalizer| finalizer != FINALIZER)).await?;
        Ok(Next::Wait)
    }
}

impl Ranges {
    async fn in_use(&self, cidr: &ServiceCIDR) -> Result<bool, Error> {
        let addresses = Api::<IPAddress>::all(self.client.clone()).list_metadata(&ListParams::default()).await;
        let name = cidr.name_any();
        let addresses = addresses.map_err(|source| Error::List { name, source: Box::new(source) })?;
        let addresses = addresses.items.iter().filter_map(|address| address.metadata.name.as_ref()?.parse().ok());
        Ok(is_needed(cidr, &self.cidrs.cache().all(), addresses))
    }

    async fn set_finalizers(
        &self,
        cidr: &ServiceCIDR,
        change: impl FnOnce(&mut Vec<String>),
    ) -> Result<(), WriteError> {
        let mut finalizers = cidr.finalizers().to_vec();
        change(&mut finalizers);
        let (uid, revision) = (&cidr.metadata.uid, &cidr.metadata.resource_version);
        let metadata = json!({ "uid": uid, "resourceVersion": revision, "finalizers": finalizers });
        self.cidrs.patch(&Key::of(&cidr.metadata), &json!({ "metadata": metadata })).await.map(drop)
    }

    async fn say_ready(&self, cidr: &ServiceCIDR) -> Result<(), WriteError> {
        self.say(cidr, "True", "", "Kubernetes Service CIDR is ready").await
    }

    async fn say_terminating(&self, cidr: &ServiceCIDR) -> Result<(), WriteError> {
        let why =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        self.say(cidr, "False", "Terminating", why).await
    }

    async fn say(&self, cidr: &ServiceCIDR, ready: &str, reason: &str, message: &str) -> Result<(), WriteError> {
        if says(cidr, ready) {
            return Ok(());
        }
        let status = condition(ready, reason, message, Timestamp::now());
        self.cidrs.patch_status(&Key::of(&cidr.metadata), &status).await.map(drop)
    }
}

fn says(cidr: &ServiceCIDR, ready: &str) -> bool {
    let conditions = cidr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == ready)
}

fn condition(ready: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({ "status": { "conditions": [{
        "type": "Ready", "status": ready, "reason": reason, "message": message, "lastTransitionTime": Time(now),
    }] } })
}

/// Whether there are addresses that only this range of all that stay has.
fn is_needed(cidr: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: impl IntoIterator<Item = IpAddr>) -> bool {
    let ranges = |cidr: &ServiceCIDR| -> Vec<IpNet> {
        let cidrs = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
        cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()
    };
    let stay = |other: &&Arc<ServiceCIDR>| {
        other.metadata.deletion_timestamp.is_none() && other.metadata.uid != cidr.metadata.uid
    };
    let (own, others) = (ranges(cidr), all.iter().filter(stay).flat_map(|other| ranges(other)).collect::<Vec<_>>());
    let within = |ranges: &[IpNet], address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    addresses.into_iter().any(|address| within(&own, &address) && !within(&others, &address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(name: &str, range: &str, leaving: bool) -> Arc<ServiceCIDR> {
        let deleted = leaving.then_some("2026-01-01T00:00:00Z");
        let metadata = json!({ "name": name, "uid": name, "deletionTimestamp": deleted });
        Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": { "cidrs": [range] } })).unwrap())
    }

    #[test]
    fn a_range_is_needed_while_only_it_has_an_address_in_use() {
        let going = cidr("going", "10.1.0.0/24", true);
        let needed = |others: &[Arc<ServiceCIDR>], address: &str| {
            let all: Vec<_> = others.iter().chain([&going]).cloned().collect();
            is_needed(&going, &all, [address.parse().unwrap()])
        };
        assert!(needed(&[], "10.1.0.7"));
        assert!(!needed(&[], "10.2.0.7"));
        assert!(!needed(&[cidr("wide", "10.0.0.0/8", false)], "10.1.0.7"));
        assert!(needed(&[cidr("wide", "10.0.0.0/8", true)], "10.1.0.7"), "that one is going too");
    }
}
