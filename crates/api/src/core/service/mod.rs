//! Service: one name and address for many pods. Allocation of addresses and ports is planned in `allocation` and carried
//! out by the API server in the Service's own transaction; what a Service means on a node is `service-model`'s business.

pub mod allocation;
pub mod bands;
mod defaults;
mod families;
mod normalise;
mod shape;
mod table;
mod validation;
mod validation_addresses;
mod warnings;

pub(crate) use validation::{PROTOCOLS, validate_app_protocol, validate_protocol, validate_target_port};

use serde_json::{Value, json};

use crate::field;
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy, Subresource};
use crate::tree::{child_map, child_mut, copy, map_mut, remove, text};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "Service")],
    definition: "io.k8s.api.core.v1.Service",
    strategy: &Service,
};

struct Service;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        defaults::apply(object);
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Value) {
        map_mut(object).insert("status".to_owned(), json!({"loadBalancer": {}}));
        // There are no endpoints inside that a policy could choose from.
        if shape::is_external_name(object) && !text(&object["spec"]["internalTrafficPolicy"]).is_empty() {
            remove(child_mut(object, "spec"), "internalTrafficPolicy");
        }
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        validation::validate(object, None)
    }

    /// Services keep no generation (upstream neither).
    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        if context.subresource == "status" {
            copy(new, old, "spec");
            return;
        }
        copy(new, old, "status");
        normalise::drop_type_dependent_fields(new, old);
        child_map(new, "status").entry("loadBalancer").or_insert_with(|| json!({}));
    }

    fn validate_update(&self, context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        if context.subresource == "status" {
            return validation::validate_status(new, old);
        }
        let mut errors = validation_addresses::validate_change(new, old);
        errors.extend(validation::validate_change(new, old));
        errors.extend(validation::validate(new, Some(old)));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::warnings(new, old)
    }

    /// DNS-1123 labels: RelaxedServiceNameValidation is on from 1.36 (KEP-5311).
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns_label(name, prefix)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn field(&self, object: &Value, label: &str) -> String {
        let name = label.strip_prefix("spec.").unwrap_or(label);
        text(&object["spec"][name]).to_owned()
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        table::cells(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(subresource: &'static str, asked: Value, old: &Value) -> Value {
        let mut new = asked;
        Service.default(&mut new);
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource };
        Service.prepare_for_update(&context, &mut new, old);
        new
    }

    #[test]
    fn a_new_one_has_no_status() {
        let mut object = json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}});
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        Service.prepare_for_create(&context, &mut object);
        assert_eq!(object, json!({"status": {"loadBalancer": {}}}));
    }

    #[test]
    fn spec_and_status_have_their_own_doors() {
        let old = json!({
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "a/b"},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4", "ipMode": "VIP"}]}},
        });
        let mut asked = old.clone();
        asked["spec"]["loadBalancerClass"] = json!("c/d");
        asked["status"] = json!({"loadBalancer": {"ingress": [{"ip": "5.6.7.8"}]}});
        let new = update("", asked.clone(), &old);
        assert_eq!((&new["status"], &new["spec"]["loadBalancerClass"]), (&old["status"], &json!("c/d")));
        let new = update("status", asked, &old);
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["status"], json!({"loadBalancer": {"ingress": [{"ip": "5.6.7.8", "ipMode": "VIP"}]}}));
    }

    #[test]
    fn the_status_goes_with_the_type() {
        let old = json!({
            "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}, "conditions": [{"type": "a"}]},
        });
        let new = update("", json!({"spec": {"type": "ClusterIP"}}), &old);
        assert_eq!(new["status"], json!({"loadBalancer": {}, "conditions": [{"type": "a"}]}));
    }

    #[test]
    fn names_may_start_with_a_digit() {
        assert!(Service.validate_name("1web", false).is_empty());
        assert_eq!(Service.validate_name("a.b", false), ["must not contain dots"]);
    }

    #[test]
    fn field_labels() {
        let object = json!({"spec": {"clusterIP": "10.0.0.1", "type": "NodePort"}});
        assert_eq!(Service.field(&object, "spec.clusterIP"), "10.0.0.1");
        assert_eq!(Service.field(&object, "spec.type"), "NodePort");
    }
}
