//! Who depends on whom, and what follows from it. Not responsible for reading or writing the API.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PropagationPolicy;
use runtime::Key;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its place in `api::resources()`.
    pub resource: usize,
    pub key: Key,
    pub uid: String,
    pub resource_version: Option<String>,
    pub owners: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    pub deleting: bool,
}

/// What to do to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Delete(Node, PropagationPolicy),
    /// Take off the references to these owners.
    Disown(Node, Vec<String>),
    /// Take off a finalizer whose work is done.
    Finish(Node, String),
}

#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Node {
    fn new(resource: usize, metadata: &ObjectMeta) -> Self {
        Self {
            resource,
            key: Key::of(metadata),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone(),
            owners: metadata.owner_references.clone().unwrap_or_default(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|held| held == finalizer)
    }

    /// Whether `owner` is a reference to this object as it is: its kind and name, and from where it can be seen.
    fn is_meant(&self, owner: &OwnerReference, namespace: &str) -> bool {
        let resource = api::resources()[self.resource];
        resource.kind == owner.kind
            && resource.api_version() == owner.api_version
            && self.key.name == owner.name
            && (self.key.namespace.is_empty() || self.key.namespace == namespace)
    }

    /// A cluster-scoped object can't have a namespaced owner: there is no namespace to look for it in.
    fn is_unresolvable(&self, owner: &OwnerReference) -> bool {
        self.key.namespace.is_empty() && resource_of(owner).is_some_and(|resource| resource.namespaced())
    }

    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }
}

/// The kind of an owner, if there is one.
pub fn resource_of(owner: &OwnerReference) -> Option<&'static api::Resource> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    api::kinds::find_kind(group, version, &owner.kind)
}

impl Graph {
    /// Takes in a change of one object; returns the uids to look at.
    pub fn update(&mut self, resource: usize, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) -> BTreeSet<String> {
        let mut marks = BTreeSet::new();
        let uid = |metadata: Option<&ObjectMeta>| metadata.and_then(|metadata| metadata.uid.clone());
        if let Some(gone) = uid(old).filter(|gone| uid(new).as_ref() != Some(gone)) {
            marks.extend(self.remove(&gone));
        }
        if let Some(node) = new.map(|metadata| Node::new(resource, metadata)) {
            let held = self.remove_links(&node.uid);
            for owner in &node.owners {
                self.dependents.entry(owner.uid.clone()).or_default().insert(node.uid.clone());
            }
            let same = held.as_ref().is_some_and(|held| {
                (&held.owners, &held.finalizers, held.deleting) == (&node.owners, &node.finalizers, node.deleting)
            });
            if !same {
                marks.insert(node.uid.clone());
                if node.waits_for_dependents() {
                    marks.extend(self.dependents_of(&node.uid));
                }
                // A dependent that changed may be what its owner waits for.
                marks.extend(held.iter().flat_map(|held| &held.owners).map(|owner| owner.uid.clone()));
            }
            self.nodes.insert(node.uid.clone(), node);
        }
        marks
    }

    fn remove(&mut self, uid: &str) -> BTreeSet<String> {
        let held = self.remove_links(uid);
        self.nodes.remove(uid);
        let mut marks = self.dependents_of(uid);
        marks.extend(held.into_iter().flat_map(|held| held.owners).map(|owner| owner.uid));
        marks
    }

    fn remove_links(&mut self, uid: &str) -> Option<Node> {
        let held = self.nodes.get(uid).cloned()?;
        for owner in &held.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        Some(held)
    }

    fn dependents_of(&self, uid: &str) -> BTreeSet<String> {
        self.dependents.get(uid).cloned().unwrap_or_default()
    }

    /// Owners that this object names and the graph does not know as it names them, with the object's namespace.
    pub fn unseen_owners(&self, uid: &str) -> Vec<(String, OwnerReference)> {
        let Some(node) = self.nodes.get(uid).filter(|node| !node.deleting) else { return Vec::new() };
        let seen = |owner: &&OwnerReference| {
            self.nodes.get(&owner.uid).is_some_and(|held| held.is_meant(owner, &node.key.namespace))
        };
        let unseen = node.owners.iter().filter(|owner| !seen(owner) && !node.is_unresolvable(owner));
        unseen.map(|owner| (node.key.namespace.clone(), owner.clone())).collect()
    }

    /// The object, and those of its owners that no reference from its place can mean: namespaced ones that are in
    /// another namespace, or in any when it has none itself.
    pub fn misplaced_owners(&self, uid: &str) -> Option<(&Node, Vec<&OwnerReference>)> {
        let node = self.nodes.get(uid)?;
        let elsewhere = |owner: &&OwnerReference| {
            let held = self.nodes.get(&owner.uid).map(|held| held.key.namespace.as_str()).unwrap_or_default();
            node.is_unresolvable(owner) || (!held.is_empty() && held != node.key.namespace)
        };
        Some((node, node.owners.iter().filter(elsewhere).collect()))
    }

    /// What to do about an object, given which of its unseen owners are really absent.
    pub fn actions(&self, uid: &str, absent: &[String]) -> Vec<Action> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        if node.deleting {
            return self.deleting(node);
        }
        // While one of its owners can't even be looked for, nobody can tell that it has none.
        if node.owners.is_empty() || node.owners.iter().any(|owner| node.is_unresolvable(owner)) {
            return Vec::new();
        }
        let mut owners: BTreeMap<bool, Vec<String>> = BTreeMap::new();
        let mut waiting = false;
        for owner in &node.owners {
            let held = self.nodes.get(&owner.uid).filter(|held| held.is_meant(owner, &node.key.namespace));
            let leaving = held.is_some_and(Node::waits_for_dependents);
            waiting |= leaving;
            owners.entry(leaving || absent.contains(&owner.uid)).or_default().push(owner.uid.clone());
        }
        let (solid, lost) = (owners.remove(&false).unwrap_or_default(), owners.remove(&true).unwrap_or_default());
        if lost.is_empty() {
            return Vec::new();
        }
        if !solid.is_empty() {
            return vec![Action::Disown(node.clone(), lost)];
        }
        let policy = if node.has(ORPHAN) {
            PropagationPolicy::Orphan
        } else if node.has(FOREGROUND) || (waiting && self.dependents.contains_key(uid)) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        vec![Action::Delete(node.clone(), policy)]
    }

    /// A deleted object that its finalizers hold for us.
    fn deleting(&self, node: &Node) -> Vec<Action> {
        let dependents = self.dependents_of(&node.uid);
        let dependents: Vec<&Node> = dependents.iter().filter_map(|uid| self.nodes.get(uid)).collect();
        if node.has(ORPHAN) {
            let owner = vec![node.uid.clone()];
            let mut actions: Vec<Action> =
                dependents.iter().map(|dependent| Action::Disown((*dependent).clone(), owner.clone())).collect();
            actions.push(Action::Finish(node.clone(), ORPHAN.to_owned()));
            return actions;
        }
        if !node.has(FOREGROUND) {
            return Vec::new();
        }
        let blocks = |dependent: &&Node| {
            let ours = |owner: &&OwnerReference| owner.uid == node.uid && !dependent.is_unresolvable(owner);
            dependent.owners.iter().filter(ours).any(|owner| owner.block_owner_deletion == Some(true))
        };
        // Dependents find out for themselves that this owner is leaving; it only waits.
        if dependents.iter().any(blocks) {
            return Vec::new();
        }
        vec![Action::Finish(node.clone(), FOREGROUND.to_owned())]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metadata(uid: &str, owners: &[&str], change: Value) -> ObjectMeta {
        let owners: Vec<Value> = owners
            .iter()
            .map(|uid| {
                let (version, kind) = (api::resources()[0].api_version(), api::resources()[0].kind);
                json!({ "apiVersion": version, "kind": kind, "name": uid, "uid": uid, "blockOwnerDeletion": true })
            })
            .collect();
        let mut value = json!({ "name": uid, "namespace": "default", "uid": uid, "ownerReferences": owners });
        value.as_object_mut().unwrap().extend(change.as_object().cloned().unwrap_or_default());
        serde_json::from_value(value).unwrap()
    }

    fn graph(objects: &[ObjectMeta]) -> Graph {
        let mut graph = Graph::default();
        objects.iter().for_each(|object| drop(graph.update(0, None, Some(object))));
        graph
    }

    fn leaving(finalizer: &str) -> Value {
        json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer] })
    }

    #[test]
    fn the_end_of_an_owner_is_the_end_of_its_dependents() {
        let (owner, pod) = (metadata("owner", &[], json!({})), metadata("pod", &["owner"], json!({})));
        let mut graph = graph(&[owner.clone(), pod]);
        assert!(graph.actions("pod", &[]).is_empty(), "a present owner keeps it");
        let marks = graph.update(0, Some(&owner), None);
        assert!(marks.contains("pod"));
        assert_eq!(graph.unseen_owners("pod").len(), 1);
        let actions = graph.actions("pod", &["owner".into()]);
        assert!(matches!(&actions[..], [Action::Delete(node, PropagationPolicy::Background)] if node.uid == "pod"));
        assert!(graph.actions("pod", &[]).is_empty(), "an unseen owner that exists keeps it too");
    }

    #[test]
    fn one_owner_left_is_enough() {
        let graph = graph(&[metadata("a", &[], json!({})), metadata("pod", &["a", "b"], json!({}))]);
        assert!(matches!(&graph.actions("pod", &["b".into()])[..], [Action::Disown(_, lost)] if lost == &["b"]));
    }

    #[test]
    fn a_namespaced_owner_of_a_cluster_scoped_object_keeps_it() {
        let namespaces = api::resources().iter().position(|r| r.kind == "Namespace").unwrap();
        let mut object = metadata("object", &["owner", "gone"], json!({}));
        object.namespace = None;
        let mut graph = graph(&[metadata("owner", &[], leaving(FOREGROUND))]);
        graph.update(namespaces, None, Some(&object));
        assert!(graph.unseen_owners("object").is_empty(), "there is no namespace to look in");
        assert!(graph.actions("object", &["gone".into()]).is_empty());
        assert_eq!(graph.misplaced_owners("object").unwrap().1.len(), 2);
        assert!(matches!(&graph.actions("owner", &[])[..], [Action::Finish(..)]), "nor does it hold its owner");
    }

    #[test]
    fn an_owner_in_another_namespace_is_none() {
        let pod = metadata("pod", &["owner"], json!({ "namespace": "other" }));
        let graph = graph(&[metadata("owner", &[], json!({})), pod]);
        assert_eq!(graph.unseen_owners("pod")[0].0, "other", "it is looked for beside its dependent");
        assert_eq!(graph.misplaced_owners("pod").unwrap().1.len(), 1);
        assert!(matches!(&graph.actions("pod", &["owner".into()])[..], [Action::Delete(..)]));
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents() {
        let owner = metadata("owner", &[], leaving(FOREGROUND));
        let (set, pod) = (metadata("set", &["owner"], json!({})), metadata("pod", &["set"], json!({})));
        let mut graph = graph(&[owner, set.clone(), pod]);
        assert!(graph.actions("owner", &[]).is_empty());
        assert!(matches!(&graph.actions("set", &[])[..], [Action::Delete(_, PropagationPolicy::Foreground)]));
        assert!(graph.actions("pod", &[]).is_empty(), "the pod goes when the set itself is being deleted");
        let marks = graph.update(0, Some(&set), None);
        assert!(marks.contains("owner") && marks.contains("pod"));
        assert!(matches!(&graph.actions("owner", &[])[..], [Action::Finish(_, done)] if done == FOREGROUND));
    }

    #[test]
    fn orphaning_takes_the_references_off_first() {
        let graph = graph(&[metadata("owner", &[], leaving(ORPHAN)), metadata("pod", &["owner"], json!({}))]);
        let actions = graph.actions("owner", &[]);
        assert!(
            matches!(&actions[..], [Action::Disown(node, _), Action::Finish(_, done)] if node.uid == "pod" && done == ORPHAN)
        );
    }

    #[test]
    fn changes_that_decide_nothing_mark_nothing() {
        let pod = metadata("pod", &["owner"], json!({}));
        let mut graph = graph(std::slice::from_ref(&pod));
        let later = ObjectMeta { resource_version: Some("7".into()), ..pod.clone() };
        assert!(graph.update(0, Some(&pod), Some(&later)).is_empty());
    }
}
