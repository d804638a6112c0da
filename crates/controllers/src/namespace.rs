//! Empties namespaces that are being deleted, pods first (KEP-5080), then lets them go. Not responsible for graceful
//! deletion of what is in them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use runtime::{Key, Next, Objects, Reconcile, WriteError};

use crate::cluster::{Cluster, mark_self};
use crate::garbage::{Meta, api_resource};

const FINALIZER: &str = "kubernetes";
/// How soon to look again at what finalizers or graceful deletion still hold.
const AGAIN: Duration = Duration::from_millis(500);
/// How many objects are deleted at once.
const AT_ONCE: usize = 16;

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue();
    mark_self(&cluster.namespaces, &queue);
    let marks = queue.clone();
    cluster.pods.cache().on_change(move |change| {
        if let (Some(pod), None) = (&change.old, &change.new) {
            marks.add(Key::cluster(pod.namespace().unwrap_or_default()));
        }
    });
    let namespaces = Namespaces {
        client: cluster.client.clone(),
        namespaces: cluster.namespaces.clone(),
        pods: cluster.pods.clone(),
    };
    cluster.drive("namespace", namespaces, queue, 4);
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("cannot list {kind} of namespace {namespace}")]
    List { kind: &'static str, namespace: String, source: Box<kube::Error> },
    #[error("cannot delete {kind} {namespace}/{name}")]
    Delete { kind: &'static str, namespace: String, name: String, source: Box<kube::Error> },
}

/// What is left in a namespace: objects per resource, and how often each finalizer holds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    pub objects: BTreeMap<String, usize>,
    pub finalizers: BTreeMap<String, usize>,
}

struct Namespaces {
    client: Client,
    namespaces: Objects<Namespace>,
    pods: Objects<Pod>,
}

impl Reconcile for Namespaces {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(namespace) = self.namespaces.cache().get(key) else { return Ok(Next::Wait) };
        if !is_ours(&namespace) {
            return Ok(Next::Wait);
        }
        let (remains, failures) = self.empty(&key.name).await;
        if remains.objects.is_empty() && failures.is_empty() {
            let mut spec = namespace.spec.clone().unwrap_or_default();
            spec.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
            let next = Namespace { spec: Some(spec), ..(*namespace).clone() };
            self.namespaces.replace_subresource("finalize", &next).await?;
            return Ok(Next::Wait);
        }
        let status = status(namespace.status.as_ref(), &remains, Timestamp::now());
        if namespace.status.as_ref() != Some(&status) {
            let next = Namespace { status: Some(status), ..(*namespace).clone() };
            self.namespaces.replace_subresource("status", &next).await?;
        }
        // Everything else has gone by now; the retry is for what failed.
        failures.into_iter().next().map_or(Ok(Next::After(AGAIN)), Err)
    }
}

fn is_ours(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    namespace.metadata.deletion_timestamp.is_some() && finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

impl Namespaces {
    /// Deletes everything, and returns what has not gone at once, and what failed. While there are pods, nothing else is
    /// touched.
    async fn empty(&self, namespace: &str) -> (Remains, Vec<Error>) {
        let (mut remains, mut failures) = (Remains::default(), Vec::new());
        let (pods, rest): (Vec<_>, Vec<_>) = api::resources()
            .iter()
            .filter(|resource| {
                resource.namespaced() && resource.verbs.contains(&"delete") && resource.verbs.contains(&"list")
            })
            .partition(|resource| resource.plural == "pods");
        for resource in pods {
            self.clear(namespace, resource, &mut remains, &mut failures).await;
        }
        let left = !remains.objects.is_empty() || !self.pods.cache().in_namespace(namespace, |_| true).is_empty();
        if left || !failures.is_empty() {
            remains.objects.entry("pods".to_owned()).or_insert(1);
            return (remains, failures);
        }
        for resource in rest {
            self.clear(namespace, resource, &mut remains, &mut failures).await;
        }
        (remains, failures)
    }

    /// Deletes the objects of a kind, several at once: one that can't be deleted keeps no other.
    async fn clear(
        &self,
        namespace: &str,
        resource: &'static api::Resource,
        remains: &mut Remains,
        failures: &mut Vec<Error>,
    ) {
        let kind = resource.kind;
        let objects = Api::<Meta>::namespaced_with(self.client.clone(), namespace, &api_resource(resource));
        let list = || async {
            let listed = objects.list(&ListParams::default()).await;
            listed.map_err(|source| Error::List { kind, namespace: namespace.to_owned(), source: Box::new(source) })
        };
        let before = match list().await {
            Ok(before) if before.items.is_empty() => return,
            Ok(before) => before,
            Err(error) => return failures.push(error),
        };
        let staying = before.items.into_iter().filter(|object| object.metadata.deletion_timestamp.is_none());
        let names: Vec<String> = staying.map(|object| object.name_any()).collect();
        let deletions = stream::iter(names).map(|name| {
            let objects = &objects;
            async move { (objects.delete(&name, &DeleteParams::background()).await, name) }
        });
        let outcomes: Vec<_> = deletions.buffer_unordered(AT_ONCE).collect().await;
        for (outcome, name) in outcomes {
            match outcome {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(source) => {
                    let namespace = namespace.to_owned();
                    failures.push(Error::Delete { kind, namespace, name, source: Box::new(source) });
                }
                Ok(_) => {}
            }
        }
        let left = match list().await {
            Ok(left) => left.items,
            Err(error) => return failures.push(error),
        };
        for object in left {
            *remains.objects.entry(resource.qualified()).or_insert(0) += 1;
            for finalizer in object.finalizers() {
                *remains.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
            }
        }
    }
}

/// Upstream's conditions, with its reasons and wording.
fn status(old: Option<&NamespaceStatus>, remains: &Remains, now: Timestamp) -> NamespaceStatus {
    let list = |counts: &BTreeMap<String, usize>, noun: &str| {
        counts
            .iter()
            .map(|(name, count)| format!("{name} {noun} {count} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut wanted = vec![condition(
        "NamespaceContentRemaining",
        "SomeResourcesRemain",
        format!("Some resources are remaining: {}", list(&remains.objects, "has")),
    )];
    if !remains.finalizers.is_empty() {
        wanted.push(condition(
            "NamespaceFinalizersRemaining",
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", list(&remains.finalizers, "in")),
        ));
    }
    let held = old.and_then(|status| status.conditions.clone()).unwrap_or_default();
    for condition in &mut wanted {
        let since =
            held.iter().find(|held| held.type_ == condition.type_).and_then(|held| held.last_transition_time.clone());
        condition.last_transition_time = since.or(Some(Time(now)));
    }
    NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(wanted) }
}

fn condition(kind: &str, reason: &str, message: String) -> NamespaceCondition {
    NamespaceCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_terminating_namespaces_with_our_finalizer_are_ours() {
        let namespace = |value| is_ours(&serde_json::from_value(value).unwrap());
        let at = "2026-01-01T00:00:00Z";
        assert!(namespace(
            json!({ "metadata": { "deletionTimestamp": at }, "spec": { "finalizers": ["kubernetes"] } })
        ));
        assert!(!namespace(json!({ "metadata": {}, "spec": { "finalizers": ["kubernetes"] } })));
        assert!(!namespace(json!({ "metadata": { "deletionTimestamp": at }, "spec": { "finalizers": ["x"] } })));
    }

    #[test]
    fn conditions_say_what_is_left_and_stay_equal_while_it_is() {
        let remains = Remains {
            objects: BTreeMap::from([("pods".into(), 2)]),
            finalizers: BTreeMap::from([("example.com/hold".into(), 1)]),
        };
        let first = status(None, &remains, Timestamp::UNIX_EPOCH);
        let conditions = first.conditions.as_ref().unwrap();
        assert_eq!(
            conditions[0].message.as_deref(),
            Some("Some resources are remaining: pods has 2 resource instances")
        );
        assert_eq!(conditions[1].reason.as_deref(), Some("SomeFinalizersRemain"));
        assert_eq!(status(Some(&first), &remains, Timestamp::now()), first, "a second look writes nothing");
    }
}
