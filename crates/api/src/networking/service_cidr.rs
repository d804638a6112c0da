//! ServiceCIDR: a range that ClusterIPs come from. Whether addresses still use it is a controller's question.

use serde_json::Value;

use crate::address;
use crate::field::{self, Path};
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy, Subresource};
use crate::table::{AGE, NAME, age};
use crate::tree::{copy, remove, texts};

pub static RESOURCE: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("networking.k8s.io", "v1", "ServiceCIDR")],
    definition: "io.k8s.api.networking.v1.ServiceCIDR",
    strategy: &ServiceCidr,
};

/// Keeps a range while addresses out of it are in use (KEP-1880).
pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// The object that holds the range the cluster was started with.
pub const DEFAULT_NAME: &str = "kubernetes";

struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn prepare_for_create(&self, _context: &Context, object: &mut Value) {
        remove(object, "status");
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let path = Path::new("spec").child("cidrs");
        let cidrs = texts(&object["spec"]["cidrs"]);
        if cidrs.is_empty() {
            return vec![field::Error::required(&path, "at least one CIDR required")];
        }
        if cidrs.len() > 2 {
            let error = field::Error::invalid(&path, object["spec"].clone(), "may only hold up to 2 values");
            // Upstream prints the internal struct, whose field has no JSON name.
            return vec![error.printed_as(format!("{{\"CIDRs\":{}}}", object["spec"]["cidrs"]))];
        }
        let mut errors: Vec<field::Error> =
            cidrs.iter().enumerate().flat_map(|(i, cidr)| address::validate_cidr(&path.index(i), cidr)).collect();
        let families: Vec<bool> =
            cidrs.iter().filter_map(|cidr| address::parse_cidr(cidr)).map(|(ip, _)| ip.is_ipv4()).collect();
        if families.len() == 2 && families[0] == families[1] {
            let what = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.push(field::Error::invalid(&path, object["spec"]["cidrs"].clone(), what));
        }
        errors
    }

    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }

    fn validate_update(&self, context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        if context.subresource == "status" {
            return Vec::new();
        }
        const IMMUTABLE: &str = "field is immutable";
        let path = Path::new("spec").child("cidrs");
        let (now, before) = (texts(&new["spec"]["cidrs"]), texts(&old["spec"]["cidrs"]));
        let changed = now.iter().zip(&before).enumerate().filter(|(_, (now, before))| now != before);
        let mut errors: Vec<field::Error> =
            changed.map(|(i, (now, _))| field::Error::invalid(&path.index(i), *now, IMMUTABLE)).collect();
        match (before.len(), now.len()) {
            (a, b) if a == b => errors,
            // The one change there is: a second family for a cluster that becomes dual-stack.
            (1, 2) => {
                errors.extend(self.validate(new));
                errors
            }
            _ => vec![field::Error::invalid(&path, new["spec"]["cidrs"].clone(), IMMUTABLE)],
        }
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, Column::text("CIDRs", "The ranges, at most one for each family."), AGE] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let cidrs = texts(&object["spec"]["cidrs"]).join(",");
        vec![object["metadata"]["name"].clone(), cidrs.into(), age(object, now).into()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(cidrs: &[&str]) -> Value {
        json!({"spec": {"cidrs": cidrs}})
    }

    #[test]
    fn mistakes() {
        let cases: [(&[&str], &[&str]); 7] = [
            (&["10.96.0.0/16"], &[]),
            (&["10.96.0.0/16", "fd00::/112"], &[]),
            (&[], &["spec.cidrs: Required value: at least one CIDR required"]),
            (
                &["10.0.0.0/8", "fd00::/112", "10.1.0.0/16"],
                &[
                    "spec.cidrs: Invalid value: {\"CIDRs\":[\"10.0.0.0/8\",\"fd00::/112\",\"10.1.0.0/16\"]}: may only hold up to 2 values",
                ],
            ),
            (
                &["10.96.0.1/16"],
                &["spec.cidrs[0]: Invalid value: \"10.96.0.1/16\": must not have bits set beyond the prefix length"],
            ),
            (
                &["FD00::/112"],
                &["spec.cidrs[0]: Invalid value: \"FD00::/112\": must be in canonical form (\"fd00::/112\")"],
            ),
            (
                &["10.0.0.0/8", "11.0.0.0/8"],
                &[
                    "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"11.0.0.0/8\"]: may specify no more than one IP for each \
                   IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ],
            ),
        ];
        for (cidrs, expected) in cases {
            let found: Vec<String> = ServiceCidr.validate(&object(cidrs)).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn only_a_second_family_may_be_added() {
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let cases: [(&[&str], &[&str], &str); 5] = [
            (&["10.0.0.0/8"], &["10.0.0.0/8"], ""),
            (&["10.0.0.0/8"], &["10.0.0.0/8", "fd00::/112"], ""),
            (&["10.0.0.0/8"], &["11.0.0.0/8"], "spec.cidrs[0]: Invalid value: \"11.0.0.0/8\": field is immutable"),
            (
                &["10.0.0.0/8"],
                &["11.0.0.0/8", "fd00::/112"],
                "spec.cidrs[0]: Invalid value: \"11.0.0.0/8\": field is immutable",
            ),
            (
                &["10.0.0.0/8", "fd00::/112"],
                &["10.0.0.0/8"],
                "spec.cidrs: Invalid value: [\"10.0.0.0/8\"]: field is immutable",
            ),
        ];
        for (old, new, expected) in cases {
            let errors = ServiceCidr.validate_update(&context, &object(new), &object(old));
            assert_eq!(errors.iter().map(ToString::to_string).collect::<String>(), expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn the_status_has_its_own_door() {
        let old = json!({"spec": {"cidrs": ["10.0.0.0/8"]}, "status": {"conditions": [1]}});
        let asked = json!({"spec": {"cidrs": ["11.0.0.0/8"]}, "status": {"conditions": [2]}});
        for (subresource, spec, status) in [("", "11.0.0.0/8", 1), ("status", "10.0.0.0/8", 2)] {
            let mut new = asked.clone();
            let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource };
            ServiceCidr.prepare_for_update(&context, &mut new, &old);
            assert_eq!((&new["spec"]["cidrs"][0], &new["status"]["conditions"][0]), (&json!(spec), &json!(status)));
        }
    }
}
