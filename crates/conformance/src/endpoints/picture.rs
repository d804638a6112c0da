//! A namespace's slices and Endpoints in a form in which two systems can be compared: sets instead of packing, nothing
//! random. Not responsible for waiting until they can be expected to be equal.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::side::Side;

const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub fn of(side: &Side, namespace: &str) -> Value {
    let services: BTreeMap<String, Value> =
        side.objects("services", namespace).into_iter().map(|service| (name(&service), service)).collect();
    let uids: BTreeMap<String, String> = ["services", "endpoints", "pods"]
        .iter()
        .flat_map(|resource| side.objects(resource, namespace))
        .map(|object| (text(&object["metadata"]["uid"]), name(&object)))
        .collect();
    let (mut slices, mut empty) = (BTreeMap::<String, Slices>::new(), BTreeMap::<String, Slices>::new());
    for slice in side.objects("endpointslices", namespace) {
        let labels = &slice["metadata"]["labels"];
        let service = text(&labels[SERVICE_NAME]);
        let owner = services.get(&service);
        // The original leaves behind what it made for a Service that is now an ExternalName or without a selector;
        // ours takes it away (docs/conformance.md).
        if labels[MANAGED_BY] == CONTROLLER && owner.is_some_and(|service| !wants_endpoints(service)) {
            continue;
        }
        // It also leaves the Endpoints of what became an ExternalName, and mirrors them from then on.
        if owner.is_some_and(|service| !wants_endpoints(service))
            && !labels["endpoints.kubernetes.io/managed-by"].is_null()
        {
            continue;
        }
        let family = format!("{service} by {} {}", text(&labels[MANAGED_BY]), text(&slice["addressType"]));
        if slice["endpoints"].as_array().is_none_or(Vec::is_empty) {
            empty.entry(family.clone()).or_default().add(&slice, &uids, false);
            continue;
        }
        let by_capacity = owner.is_some_and(is_by_capacity);
        let mut ports = slice["ports"].as_array().cloned().unwrap_or_default();
        ports.sort_by_key(Value::to_string);
        // Mirrors by single ports: the original takes equal ports of two subsets for different ones if they have an
        // appProtocol, so that its slices have other sets of ports.
        let keys = match labels[MANAGED_BY] == MIRRORING {
            true => ports.iter().map(|port| format!("{family} [{port}]")).collect(),
            false => vec![format!("{family} {}", Value::Array(ports))],
        };
        for key in keys {
            slices.entry(key).or_default().add(&slice, &uids, by_capacity);
        }
    }

    // An empty slice beside others says nothing; the original keeps it while a pod without ports has no address.
    empty.retain(|family, _| !slices.keys().any(|key| key.starts_with(family.as_str())));
    slices.extend(empty);
    let slices: BTreeMap<String, Value> = slices.into_iter().map(|(key, slices)| (key, slices.rendered())).collect();
    let endpoints: BTreeMap<String, Value> = side
        .objects("endpoints", namespace)
        .iter()
        .filter(|endpoints| {
            // As above: Endpoints that the controller made for what is now an ExternalName.
            let made = !endpoints["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"].is_null();
            !made || services.get(&name(endpoints)).is_none_or(wants_endpoints)
        })
        .map(|endpoints| (name(endpoints), legacy(endpoints, &uids)))
        .collect();
    json!({ "slices": slices, "endpoints": endpoints })
}

/// What slices of one Service, family and set of ports say together.
#[derive(Default)]
struct Slices {
    metadata: BTreeSet<String>,
    endpoints: Vec<Value>,
    hinted: BTreeMap<String, usize>,
}

impl Slices {
    fn add(&mut self, slice: &Value, uids: &BTreeMap<String, String>, by_capacity: bool) {
        let metadata = json!({
            "labels": slice["metadata"]["labels"],
            "annotations": without_trigger(&slice["metadata"]["annotations"]),
            "owners": owners(&slice["metadata"]["ownerReferences"], uids),
        });
        self.metadata.insert(metadata.to_string());
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let mut endpoint = endpoint.clone();
            name_uid(&mut endpoint["targetRef"], uids);
            if by_capacity && let Some(fields) = endpoint.as_object_mut() {
                // Which endpoint is given to another zone is chance; how many are is not.
                let hints = fields.remove("hints").unwrap_or_default();
                *self.hinted.entry(hints.to_string()).or_default() += 1;
            }
            self.endpoints.push(tidy(endpoint));
        }
    }

    fn rendered(mut self) -> Value {
        self.endpoints.sort_by_key(Value::to_string);
        json!({ "metadata": self.metadata, "endpoints": self.endpoints, "hinted": self.hinted })
    }
}

fn legacy(endpoints: &Value, uids: &BTreeMap<String, String>) -> Value {
    let mut subsets = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let mut subset = subset.clone();
        for list in ["addresses", "notReadyAddresses", "ports"] {
            let Some(entries) = subset[list].as_array_mut() else { continue };
            for entry in entries.iter_mut() {
                name_uid(&mut entry["targetRef"], uids);
                *entry = tidy(entry.take());
            }
            entries.sort_by_key(Value::to_string);
        }
        subsets.push(tidy(subset));
    }
    subsets.sort_by_key(Value::to_string);
    let metadata = &endpoints["metadata"];
    json!({ "labels": metadata["labels"], "annotations": without_trigger(&metadata["annotations"]),
            "subsets": subsets })
}

fn wants_endpoints(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName" && service["spec"]["selector"].is_object()
}

fn is_by_capacity(service: &Value) -> bool {
    let annotations = &service["metadata"]["annotations"];
    let mode = &annotations["service.kubernetes.io/topology-mode"];
    mode == "Auto" || annotations["service.kubernetes.io/topology-aware-hints"] == "Auto"
}

/// Uids are random: a name stands for one that is alive.
fn name_uid(reference: &mut Value, uids: &BTreeMap<String, String>) {
    if let Some(uid) = reference["uid"].as_str() {
        let named = uids.get(uid).map_or("nobody's", String::as_str).to_owned();
        reference["uid"] = json!(named);
    }
}

fn owners(references: &Value, uids: &BTreeMap<String, String>) -> Value {
    let mut references = references.clone();
    references.as_array_mut().into_iter().flatten().for_each(|reference| name_uid(reference, uids));
    references
}

fn without_trigger(annotations: &Value) -> Value {
    let mut kept: Map<String, Value> = annotations.as_object().cloned().unwrap_or_default();
    kept.remove(TRIGGER);
    Value::Object(kept)
}

/// Without members that are null, which indexing may have added.
fn tidy(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
    }
    value
}

fn name(object: &Value) -> String {
    text(&object["metadata"]["name"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
