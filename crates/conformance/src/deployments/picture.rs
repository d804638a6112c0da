//! A namespace's Deployments, ReplicaSets and Pods in a form in which two systems can be compared: without times, uids and
//! random names; a hash is replaced by what it stands for. Not responsible for waiting until they can be equal.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::side::Side;

const HASH: &str = "pod-template-hash";

pub fn of(side: &Side, namespace: &str) -> Value {
    let sets = side.objects("replicasets", namespace);
    let names = Names::of(&sets, &side.objects("deployments", namespace));
    let deployments: BTreeMap<String, Value> = side
        .objects("deployments", namespace)
        .into_iter()
        .map(|deployment| (text(&deployment["metadata"]["name"]), names.applied(stored(&deployment))))
        .collect();
    let mut replica_sets: BTreeMap<String, Value> = BTreeMap::new();
    for set in &sets {
        let name = names.text(&text(&set["metadata"]["name"]));
        let mut set_now = stored(set);
        // How often controllers changed the spec on the way is chance; that the status has caught up is not.
        set_now["current"] = json!(set["metadata"]["generation"] == set["status"]["observedGeneration"]);
        for (part, field) in [("metadata", "generation"), ("status", "observedGeneration")] {
            if let Some(fields) = set_now[part].as_object_mut() {
                fields.remove(field);
            }
        }
        replica_sets.insert(name, names.applied(set_now));
    }
    let mut pods: BTreeMap<String, usize> = BTreeMap::new();
    for pod in side.objects("pods", namespace) {
        let ready = pod["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
        let metadata = &pod["metadata"];
        let line = json!({
            "image": pod["spec"]["containers"][0]["image"],
            "owner": metadata["ownerReferences"][0]["name"], "labels": metadata["labels"],
            "phase": pod["status"]["phase"], "ready": ready.map(|ready| ready["status"].clone()),
            "ending": !metadata["deletionTimestamp"].is_null(),
        });
        *pods.entry(names.applied(line).to_string()).or_default() += 1;
    }
    json!({ "deployments": deployments, "replicasets": replica_sets, "pods": pods })
}

/// Hashes and uids, and what is said instead.
struct Names(Vec<(String, String)>);

impl Names {
    fn of(sets: &[Value], deployments: &[Value]) -> Self {
        let mut order: Vec<&Value> = sets.iter().collect();
        let age = |set: &Value| (text(&set["metadata"]["creationTimestamp"]), text(&set["metadata"]["name"]));
        order.sort_by_key(|set| age(set));
        let mut instead: BTreeMap<String, String> = BTreeMap::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for set in order {
            let metadata = &set["metadata"];
            let container = &set["spec"]["template"]["spec"]["containers"][0];
            // The same template in two sets, after a collision: the name tells them apart.
            let stands_for = format!("#{}{}", text(&container["image"]), text(&container["env"][0]["value"]));
            let hash = metadata["labels"][HASH].as_str().or(set["spec"]["selector"]["matchLabels"][HASH].as_str());
            if let Some(hash) = hash {
                let count = counts.entry(stands_for.clone()).or_default();
                *count += usize::from(!instead.contains_key(hash));
                let number = *count;
                instead.entry(hash.to_owned()).or_insert_with(|| format!("{stands_for}/{number}"));
            }
        }
        for object in sets.iter().chain(deployments) {
            let metadata = &object["metadata"];
            instead.insert(text(&metadata["uid"]), format!("uid of {}", text(&metadata["name"])));
        }
        // Uids first: their replacements may hold a hash.
        let mut pairs: Vec<(String, String)> = instead.into_iter().collect();
        pairs.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
        Names(pairs)
    }

    fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from.as_str(), to))
    }

    fn applied(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(entries) => entries.into_iter().map(|entry| self.applied(entry)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(key, field)| (self.text(&key), self.applied(field))).collect()
            }
            other => other,
        }
    }
}

/// The object without what time and chance put there.
fn stored(object: &Value) -> Value {
    let mut object = object.clone();
    object["kind"] = Value::Null;
    object["apiVersion"] = Value::Null;
    for field in ["creationTimestamp", "resourceVersion", "uid", "managedFields", "generateName"] {
        object["metadata"][field] = Value::Null;
    }
    if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
        conditions.sort_by_key(|condition| text(&condition["type"]));
        for condition in conditions {
            condition["lastUpdateTime"] = Value::Null;
            condition["lastTransitionTime"] = Value::Null;
            // Which of these stands depends on how soon a status was written after the set.
            if ["NewReplicaSetCreated", "ReplicaSetUpdated"].iter().any(|reason| condition["reason"] == *reason) {
                condition["reason"] = json!("under way");
                condition["message"] = Value::Null;
            }
        }
    }
    without_nulls(object)
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, field)| !field.is_null());
            kept.map(|(key, field)| (key, without_nulls(field))).collect()
        }
        Value::Array(entries) => entries.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
