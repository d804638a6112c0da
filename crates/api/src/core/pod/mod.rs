//! Pod: the smallest thing that runs. Running it is a node's business; here is what it may look like, what may change,
//! how it is shown.

mod admission;
pub mod binding;
mod containers;
mod defaults;
mod dns;
mod handlers;
mod placement;
mod qos;
mod resources;
mod security;
mod table;
mod update;
mod validation;
mod volumes;
mod warnings;

use serde_json::{Value, json};

pub(crate) use defaults::apply_to_spec as default_spec;
pub(crate) use validation::{Whose, validate_spec};
pub(crate) use warnings::of_spec as spec_warnings;

use crate::address::ip_warnings;
use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy, Subresource};
use crate::tree::{
    absent, child_map, child_mut, copy, elements_mut, fill, first_generation, flag, int, list, map_mut,
    next_generation, put, same, text, unset,
};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource { name: "binding", kind: ("", "v1", "Binding"), verbs: &["create"] },
        Subresource { name: "log", kind: ("", "v1", "Pod"), verbs: &["get"] },
        Subresource::status("", "v1", "Pod"),
    ],
    definition: "io.k8s.api.core.v1.Pod",
    strategy: &Pod,
};

struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        defaults::apply(object);
    }

    /// Also does what upstream's admission plugins do (ServiceAccount, DefaultTolerationSeconds).
    fn prepare_for_create(&self, context: &Context, object: &mut Value) {
        first_generation(object);
        drop_stop_signals(object);
        admission::admit(object);
        let class = qos::class(object);
        map_mut(object).insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
        if !list(&object["spec"]["schedulingGates"]).is_empty() {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastTransitionTime": context.now.to_string(),
            });
            child_map(object, "status").insert("conditions".to_owned(), json!([condition]));
        }
    }

    fn forbidden(&self, object: &Value) -> Option<String> {
        admission::forbidden(object)
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        validation::validate_create(object)
    }

    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        if context.subresource == "status" {
            copy(new, old, "spec");
            let metadata = child_mut(new, "metadata");
            copy(metadata, &old["metadata"], "ownerReferences");
            copy(metadata, &old["metadata"], "deletionTimestamp");
            copy(metadata, &old["metadata"], "generation");
            if text(&new["status"]["qosClass"]).is_empty() {
                put(child_mut(new, "status"), "qosClass", old["status"]["qosClass"].clone());
            }
            keep_observed_generations(new, old);
            pair_addresses(new);
            return;
        }
        copy(new, old, "status");
        drop_stop_signals(new);
        admission::tolerate(new);
        let changed = !same(&new["spec"], &old["spec"]);
        next_generation(new, old, changed);
    }

    fn validate_update(&self, context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        match context.subresource {
            "status" => update::validate_status(new, old),
            _ => update::validate(new, old),
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        match old {
            None => {
                let name = text(&new["metadata"]["name"]);
                let mistakes = names::dns_label(name, false);
                let unfit = (!mistakes.is_empty()).then(|| {
                    format!(
                        "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
                         label is recommended: [{}]",
                        mistakes.join(" ")
                    )
                });
                unfit.into_iter().chain(spec_warnings(&new["spec"], &Path::new("spec"))).collect()
            }
            Some(old) => status_warnings(new, old),
        }
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn field(&self, object: &Value, label: &str) -> String {
        match label {
            "spec.hostNetwork" => flag(&object["spec"]["hostNetwork"]).to_string(),
            "status.podIP" | "status.podIPs" => {
                let first = text(&object["status"]["podIPs"][0]["ip"]);
                if first.is_empty() { text(&object["status"]["podIP"]) } else { first }.to_owned()
            }
            _ => label.split_once('.').map(|(part, name)| text(&object[part][name])).unwrap_or_default().to_owned(),
        }
    }

    fn grace_period(&self, object: &Value, requested: Option<i64>) -> i64 {
        let finished = matches!(text(&object["status"]["phase"]), "Failed" | "Succeeded");
        if finished || text(&object["spec"]["nodeName"]).is_empty() {
            return 0;
        }
        let period = requested.unwrap_or_else(|| int(&object["spec"]["terminationGracePeriodSeconds"]));
        if period < 0 { 1 } else { period }
    }

    fn graceful(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        table::cells(object, now)
    }
}

/// `lifecycle.stopSignal` is behind a gate that is closed in the version we emulate (KEP-4960).
fn drop_stop_signals(pod: &mut Value) {
    let spec = child_mut(pod, "spec");
    for list_name in ["containers", "initContainers"] {
        for container in elements_mut(spec, list_name) {
            let Some(lifecycle) = container.get_mut("lifecycle").filter(|lifecycle| lifecycle.is_object()) else {
                continue;
            };
            let dropped = lifecycle.as_object_mut().and_then(|fields| fields.remove("stopSignal"));
            if dropped.is_some() && *lifecycle == json!({}) {
                map_mut(container).remove("lifecycle");
            }
        }
    }
}

/// The first of the addresses is also the one that older clients read.
fn pair_addresses(pod: &mut Value) {
    let status = child_mut(pod, "status");
    let (one, first) = (text(&status["podIP"]).to_owned(), text(&status["podIPs"][0]["ip"]).to_owned());
    if !first.is_empty() {
        put(status, "podIP", first);
    } else if !one.is_empty() {
        put(status, "podIPs", json!([{"ip": one}]));
    }
}

/// A client that knows no `observedGeneration` doesn't clear it.
fn keep_observed_generations(new: &mut Value, old: &Value) {
    if unset(&new["status"]["observedGeneration"]) {
        put(child_mut(new, "status"), "observedGeneration", old["status"]["observedGeneration"].clone());
    }
    for condition in elements_mut(child_mut(new, "status"), "conditions") {
        let before = list(&old["status"]["conditions"]).iter().find(|c| c["type"] == condition["type"]);
        if let Some(generation) = before.map(|c| &c["observedGeneration"]).filter(|generation| !absent(generation)) {
            fill(condition, "observedGeneration", generation.clone());
        }
    }
}

fn status_warnings(new: &Value, old: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for field in ["podIPs", "hostIPs"] {
        let (ips, path) = (&new["status"][field], Path::new("status").child(field));
        if !same(ips, &old["status"][field]) {
            let ips = list(ips).iter().map(|ip| text(&ip["ip"])).enumerate();
            warnings.extend(ips.flat_map(|(i, ip)| ip_warnings(&path.index(i).child("ip"), ip)));
        }
    }
    warnings
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
