//! Node: a machine that runs pods, as it reports itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::address::{parse_cidr, validate_legacy_cidr};
use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy, Subresource};
use crate::table::{AGE, NAME, age, or};
use crate::tree::{child_mut, copy, entries, flag, list, put, text, texts, unset};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "Node")],
    definition: "io.k8s.api.core.v1.Node",
    strategy: &Node,
};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

struct Node;

impl Strategy for Node {
    /// A node may come with its status: whoever registers it knows it.
    fn default(&self, object: &mut Value) {
        pair_pod_cidrs(object);
        let capacity = object["status"]["capacity"].clone();
        if unset(&object["status"]["allocatable"]) && !unset(&capacity) {
            put(child_mut(object, "status"), "allocatable", capacity);
        }
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let mut errors = validate_taints(object);
        errors.extend(validate_pod_cidrs(object));
        errors
    }

    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }

    fn validate_update(&self, _context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = validate_addresses(new);
        errors.extend(validate_change(new, old));
        errors.extend(self.validate(new));
        errors
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn field(&self, object: &Value, _label: &str) -> String {
        flag(&object["spec"]["unschedulable"]).to_string()
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME,
                Column::text("Status", "Whether it is ready, and whether pods may be scheduled to it."),
                Column::text("Roles", "What its labels say it is for."),
                AGE,
                Column::text("Version", "The version of its agent."),
                Column::text("Internal-IP", "Its address inside the cluster.").wide(),
                Column::text("External-IP", "Its address outside.").wide(),
                Column::text("OS-Image", "Its operating system.").wide(),
                Column::text("Kernel-Version", "Its kernel.").wide(),
                Column::text("Container-Runtime", "What runs its containers.").wide(),
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let info = &object["status"]["nodeInfo"];
        let mut kernel = or(text(&info["kernelVersion"]), "<unknown>").to_owned();
        let architecture = text(&info["architecture"]);
        if !architecture.is_empty() {
            kernel = format!("{kernel} ({architecture})");
        }
        vec![
            object["metadata"]["name"].clone(),
            status_text(object).into(),
            roles(object).into(),
            age(object, now).into(),
            text(&info["kubeletVersion"]).into(),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            or(text(&info["osImage"]), "<unknown>").into(),
            kernel.into(),
            or(text(&info["containerRuntimeVersion"]), "<unknown>").into(),
        ]
    }
}

/// `podCIDR` is the first of `podCIDRs`; either stands for both.
fn pair_pod_cidrs(object: &mut Value) {
    let (one, all) = (text(&object["spec"]["podCIDR"]).to_owned(), &object["spec"]["podCIDRs"]);
    let first = texts(all).first().copied().unwrap_or_default().to_owned();
    if !one.is_empty() && first.is_empty() {
        *child_mut(child_mut(object, "spec"), "podCIDRs") = json!([one]);
    } else if one.is_empty() && !first.is_empty() {
        put(child_mut(object, "spec"), "podCIDR", first);
    }
}

fn validate_pod_cidrs(object: &Value) -> Vec<field::Error> {
    let (all, path) = (&object["spec"]["podCIDRs"], Path::new("spec").child("podCIDRs"));
    let cidrs = texts(all);
    let mut errors: Vec<field::Error> =
        cidrs.iter().enumerate().flat_map(|(i, cidr)| validate_legacy_cidr(&path.index(i), cidr, &[])).collect();
    if cidrs.len() > 1 {
        let parsed = cidrs.iter().filter_map(|cidr| parse_cidr(cidr));
        let families: BTreeSet<bool> = parsed.map(|(ip, _)| ip.is_ipv4()).collect();
        if families.len() != cidrs.len() {
            let what = "may specify no more than one CIDR for each IP family";
            errors.push(field::Error::invalid(&path, all.clone(), what));
        }
    }
    errors
}

fn validate_taints(object: &Value) -> Vec<field::Error> {
    // Upstream looks for taints below metadata.
    let path = Path::new("metadata").child("taints");
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, taint) in list(&object["spec"]["taints"]).iter().enumerate() {
        let path = path.index(i);
        let (key, value, effect) = (text(&taint["key"]), text(&taint["value"]), text(&taint["effect"]));
        let mistakes = names::qualified_name(key);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path.child("key"), key, what)));
        let mistakes = names::label_value(value);
        if !mistakes.is_empty() {
            errors.push(field::Error::invalid(&path.child("value"), value, mistakes.join(";")));
        }
        if effect.is_empty() {
            errors.push(field::Error::required(&path.child("effect"), ""));
        } else if !EFFECTS.contains(&effect) {
            errors.push(field::Error::not_supported(&path.child("effect"), effect, EFFECTS));
        }
        if !seen.insert((key, effect)) {
            let mut duplicate = field::Error::duplicate(&path, taint.clone());
            duplicate.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(duplicate);
        }
    }
    errors
}

fn validate_addresses(object: &Value) -> Vec<field::Error> {
    let path = Path::new("status").child("addresses");
    let addresses = list(&object["status"]["addresses"]);
    let again = addresses.iter().enumerate().filter(|(i, address)| addresses[..*i].contains(address));
    again
        .map(|(i, address)| {
            let (kind, value) = (field::quoted(text(&address["type"])), field::quoted(text(&address["address"])));
            // Upstream prints the internal struct.
            field::Error::duplicate(&path.index(i), Value::Null)
                .printed_as(format!("{{\"Type\":{kind},\"Address\":{value}}}"))
        })
        .collect()
}

/// A node gets its pod ranges and its provider's name once.
fn validate_change(new: &Value, old: &Value) -> Vec<field::Error> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let (now, before) = (texts(&new["spec"]["podCIDRs"]), texts(&old["spec"]["podCIDRs"]));
    if !before.is_empty() && now != before {
        let what = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(field::Error::forbidden(&path.child("podCIDRs"), what));
    }
    let provider = |node: &Value| text(&node["spec"]["providerID"]).to_owned();
    if !provider(old).is_empty() && provider(new) != provider(old) {
        let what = "node updates may not change providerID except from \"\" to valid";
        errors.push(field::Error::forbidden(&path.child("providerID"), what));
    }
    errors
}

fn status_text(object: &Value) -> String {
    let ready = list(&object["status"]["conditions"]).iter().find(|condition| text(&condition["type"]) == "Ready");
    let mut status = match ready.map(|condition| text(&condition["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if flag(&object["spec"]["unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(object: &Value) -> String {
    let labels = entries(&object["metadata"]["labels"]);
    let roles: BTreeSet<&str> = labels
        .map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => role,
            None if key == ROLE_LABEL => text(value),
            None => "",
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address<'a>(object: &'a Value, kind: &str) -> &'a str {
    let address = list(&object["status"]["addresses"]).iter().find(|address| text(&address["type"]) == kind);
    address.map_or("<none>", |address| text(&address["address"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts_of(errors: Vec<field::Error>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pod_ranges_pair_and_stay() {
        let mut object = json!({"spec": {"podCIDR": "10.244.0.0/24"}});
        Node.default(&mut object);
        assert_eq!(object["spec"]["podCIDRs"], json!(["10.244.0.0/24"]));
        let mut object = json!({"spec": {"podCIDRs": ["10.244.0.0/24", "fd00::/64"]}});
        Node.default(&mut object);
        assert_eq!(object["spec"]["podCIDR"], "10.244.0.0/24");

        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let ranges = |ranges: Value| json!({"spec": {"podCIDRs": ranges, "providerID": "x"}});
        let cases: [(Value, Value, &[&str]); 5] = [
            (json!({}), ranges(json!(["10.244.0.0/24"])), &[]),
            (ranges(json!(["10.244.0.0/24"])), ranges(json!(["10.244.0.0/24"])), &[]),
            (
                ranges(json!(["10.244.0.0/24"])),
                ranges(json!(["10.244.1.0/24"])),
                &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
            ),
            (
                ranges(json!([])),
                json!({"spec": {"providerID": "y"}}),
                &["spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid"],
            ),
            (
                json!({}),
                ranges(json!(["10.0.0.0/24", "10.0.1.0/24"])),
                &[
                    "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each \
                   IP family",
                ],
            ),
        ];
        for (old, new, expected) in cases {
            assert_eq!(texts_of(Node.validate_update(&context, &new, &old)), expected, "{new}");
        }
    }

    #[test]
    fn taints_and_addresses() {
        let taints = json!({"spec": {"taints": [
            {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b"}, {"key": "c", "effect": "Never"},
        ]}});
        assert_eq!(
            texts_of(Node.validate(&taints)),
            [
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and \
                 effect pair",
                "metadata.taints[2].effect: Required value",
                "metadata.taints[3].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
                 \"PreferNoSchedule\", \"NoExecute\"",
            ]
        );
        let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
        let twice = json!({"status": {"addresses": [address, address]}});
        assert_eq!(
            texts_of(validate_addresses(&twice)),
            ["status.addresses[1]: Duplicate value: {\"Type\":\"InternalIP\",\"Address\":\"10.0.0.1\"}"]
        );
    }

    #[test]
    fn rows() {
        let object = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.36.3", "kernelVersion": "6.1", "architecture": "amd64", "osImage": "Linux"},
                "addresses": [{"type": "InternalIP", "address": "172.30.0.11"}],
            },
        });
        let expected = json!([
            "n",
            "Ready,SchedulingDisabled",
            "control-plane,edge",
            "<unknown>",
            "v1.36.3",
            "172.30.0.11",
            "<none>",
            "Linux",
            "6.1 (amd64)",
            "<unknown>"
        ]);
        assert_eq!(Value::Array(Node.cells(&object, jiff::Timestamp::UNIX_EPOCH)), expected);
        let unknown = Node.cells(&json!({}), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!((&unknown[1], &unknown[2]), (&json!("Unknown"), &json!("<none>")));
        assert_eq!(Node.field(&object, "spec.unschedulable"), "true");
    }
}
