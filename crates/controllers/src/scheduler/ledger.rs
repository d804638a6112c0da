//! What each node carries and which pods wait, kept up to date change by change: a binding costs no look at all pods. Not
//! responsible for choosing.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Pod;
use runtime::Key;

use super::is_pending;
use crate::conditions::is_terminal;
use crate::owners;
use placement::{Demand, Taken, demand};

/// What a node carries.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    pub taken: Taken,
    /// Pods by the uid of their controller.
    families: HashMap<String, usize>,
}

/// A pod on a node.
struct Placed {
    node: String,
    demand: Demand,
    family: Option<String>,
    /// Bound by us, which the watch has yet to report.
    assumed: bool,
}

#[derive(Default)]
pub struct Ledger {
    nodes: HashMap<String, Carried>,
    /// By uid.
    placed: HashMap<String, Placed>,
    /// With their uids.
    pending: BTreeMap<Key, String>,
}

impl Carried {
    /// How many pods of this pod's controller are here.
    pub fn siblings(&self, pod: &Pod) -> usize {
        family(pod).and_then(|family| self.families.get(family)).copied().unwrap_or(0)
    }
}

impl Ledger {
    /// Takes in a change of one pod. Tells whether it made room.
    pub fn update(&mut self, old: Option<&Pod>, new: Option<&Pod>) -> bool {
        let mut freed = false;
        if let Some(old) = old {
            self.pending.remove(&Key::of(&old.metadata));
            if new.map(uid) != Some(uid(old)) {
                freed = self.take_off(uid(old));
            }
        }
        let Some(new) = new else { return freed };
        let node = new.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty());
        match node {
            _ if is_terminal(new) => freed |= self.take_off(uid(new)),
            Some(node) => self.place(new, node, false),
            // What is assumed stays so: an event from before the binding is no news of it.
            None if is_pending(new) => drop(self.pending.insert(Key::of(&new.metadata), uid(new).to_owned())),
            None => {}
        }
        freed
    }

    /// Counts a binding that the watch has yet to report. One that it is past already needs none.
    pub fn assume(&mut self, pod: &Pod, node: &str) {
        if self.pending.get(&Key::of(&pod.metadata)).is_some_and(|waiting| waiting == uid(pod)) {
            self.place(pod, node, true);
        }
    }

    pub fn is_assumed(&self, pod: &Pod) -> bool {
        self.placed.get(uid(pod)).is_some_and(|placed| placed.assumed)
    }

    pub fn pending(&self) -> impl Iterator<Item = &Key> {
        self.pending.keys()
    }

    pub fn on(&self, node: &str) -> Option<&Carried> {
        self.nodes.get(node)
    }

    fn place(&mut self, pod: &Pod, node: &str, assumed: bool) {
        self.take_off(uid(pod));
        let family = family(pod).map(str::to_owned);
        let placed = Placed { node: node.to_owned(), demand: demand(pod), family, assumed };
        let carried = self.nodes.entry(placed.node.clone()).or_default();
        carried.taken.add(&placed.demand);
        if let Some(family) = &placed.family {
            *carried.families.entry(family.clone()).or_default() += 1;
        }
        self.placed.insert(uid(pod).to_owned(), placed);
    }

    fn take_off(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        let Some(carried) = self.nodes.get_mut(&placed.node) else { return false };
        carried.taken.remove(&placed.demand);
        if let Some(family) = placed.family
            && let Some(count) = carried.families.get_mut(&family)
        {
            *count -= 1;
            if *count == 0 {
                carried.families.remove(&family);
            }
        }
        if carried.taken.pods() == 0 {
            self.nodes.remove(&placed.node);
        }
        true
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The uid of what made the pod.
fn family(pod: &Pod) -> Option<&str> {
    owners::controller(&pod.metadata).map(|reference| reference.uid.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str) -> Pod {
        let owner =
            json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true });
        let resources = json!({ "requests": { "cpu": "1" } });
        let port = json!({ "containerPort": 80, "hostPort": 80 });
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "d", "uid": name, "ownerReferences": [owner] },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "resources": resources, "ports": [port] }] },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn carries(ledger: &Ledger, node: &str) -> (usize, usize) {
        ledger.on(node).map_or((0, 0), |carried| (carried.taken.pods(), carried.siblings(&pod("x", None, ""))))
    }

    #[test]
    fn pods_are_counted_from_their_binding_to_their_end() {
        let mut ledger = Ledger::default();
        let (waiting, bound, ended) =
            (pod("a", None, "Pending"), pod("a", Some("n"), "Running"), pod("a", Some("n"), "Succeeded"));
        assert!(!ledger.update(None, Some(&waiting)));
        assert_eq!(ledger.pending().count(), 1);
        ledger.assume(&waiting, "n");
        assert!(ledger.is_assumed(&waiting));
        assert!(!ledger.update(Some(&waiting), Some(&waiting)), "news from before the binding");
        assert_eq!(carries(&ledger, "n"), (1, 1));
        assert!(!ledger.update(Some(&waiting), Some(&bound)));
        assert_eq!((carries(&ledger, "n"), ledger.pending().count()), ((1, 1), 0));
        assert!(!ledger.is_assumed(&bound));
        ledger.assume(&waiting, "m");
        assert_eq!(carries(&ledger, "m"), (0, 0), "the watch knows better");
        ledger.update(None, Some(&pod("b", Some("n"), "Running")));
        assert_eq!(carries(&ledger, "n"), (2, 2));
        assert!(ledger.update(Some(&bound), Some(&ended)), "it makes room");
        assert!(!ledger.update(Some(&ended), None));
        assert_eq!(carries(&ledger, "n"), (1, 1));
        assert_ne!(ledger.on("n").unwrap().taken, Taken::default());
        assert!(ledger.update(Some(&pod("b", Some("n"), "Running")), None));
        assert!(ledger.on("n").is_none());
    }

    #[test]
    fn a_namesake_is_another_pod() {
        let mut ledger = Ledger::default();
        let (first, mut second) = (pod("a", Some("n"), "Running"), pod("a", None, "Pending"));
        second.metadata.uid = Some("other".into());
        ledger.update(None, Some(&first));
        assert!(ledger.update(Some(&first), Some(&second)));
        assert_eq!((carries(&ledger, "n"), ledger.pending().count()), ((0, 0), 1));
        ledger.assume(&pod("a", None, "Pending"), "n");
        assert_eq!(carries(&ledger, "n"), (0, 0), "that one is gone");
    }
}
