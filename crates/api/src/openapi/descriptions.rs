//! What types and fields are for, in the words of `k8s-openapi`. Not responsible for facts: those are in the schema table.

use k8s_openapi::api::{
    apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling, batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, policy::v1 as policy,
    rbac::v1 as rbac,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// Schemas by definition name, of which only the descriptions are used.
pub(super) struct Descriptions(Map<String, Value>);

impl Descriptions {
    /// Of all kinds and everything they refer to.
    pub(super) fn load() -> Self {
        let mut generator = SchemaGenerator::default();
        for describe in KINDS {
            describe(&mut generator);
        }
        Descriptions(generator.take_definitions(false))
    }

    pub(super) fn of_type(&self, definition: &str) -> Option<&str> {
        self.0.get(definition)?.get("description")?.as_str()
    }

    pub(super) fn of_field(&self, definition: &str, field: &str) -> Option<&str> {
        self.0.get(definition)?.get("properties")?.get(field)?.get("description")?.as_str()
    }
}

fn describe<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// Every top-level type of the group-versions in the schema table.
const KINDS: &[fn(&mut SchemaGenerator)] = &[
    describe::<meta::DeleteOptions>,
    describe::<meta::Status>,
    describe::<core::Binding>,
    describe::<core::ConfigMap>,
    describe::<core::Endpoints>,
    describe::<core::Event>,
    describe::<core::LimitRange>,
    describe::<core::Namespace>,
    describe::<core::Node>,
    describe::<core::PersistentVolume>,
    describe::<core::PersistentVolumeClaim>,
    describe::<core::Pod>,
    describe::<core::PodTemplate>,
    describe::<core::ReplicationController>,
    describe::<core::ResourceQuota>,
    describe::<core::Secret>,
    describe::<core::Service>,
    describe::<core::ServiceAccount>,
    describe::<apps::ControllerRevision>,
    describe::<apps::DaemonSet>,
    describe::<apps::Deployment>,
    describe::<apps::ReplicaSet>,
    describe::<apps::StatefulSet>,
    describe::<authentication::SelfSubjectReview>,
    describe::<authentication::TokenRequest>,
    describe::<authentication::TokenReview>,
    describe::<authorization::LocalSubjectAccessReview>,
    describe::<authorization::SelfSubjectAccessReview>,
    describe::<authorization::SelfSubjectRulesReview>,
    describe::<authorization::SubjectAccessReview>,
    describe::<autoscaling::HorizontalPodAutoscaler>,
    describe::<autoscaling::Scale>,
    describe::<batch::CronJob>,
    describe::<batch::Job>,
    describe::<coordination::Lease>,
    describe::<discovery::EndpointSlice>,
    describe::<events::Event>,
    describe::<networking::IPAddress>,
    describe::<networking::Ingress>,
    describe::<networking::IngressClass>,
    describe::<networking::NetworkPolicy>,
    describe::<networking::ServiceCIDR>,
    describe::<policy::Eviction>,
    describe::<policy::PodDisruptionBudget>,
    describe::<rbac::ClusterRole>,
    describe::<rbac::ClusterRoleBinding>,
    describe::<rbac::Role>,
    describe::<rbac::RoleBinding>,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    /// The table and `k8s-openapi` are two readings of one API: they must name the same fields.
    #[test]
    fn the_table_has_the_fields_that_k8s_openapi_has() {
        let described = Descriptions::load();
        let mut compared = 0;
        for (name, schema) in &described.0 {
            let Some(definition) = schema::definition(name) else { continue };
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { continue };
            for field in properties.keys() {
                assert!(definition.field(field).is_some(), "{name}.{field} is missing from the table");
            }
            for field in &definition.fields {
                assert!(properties.contains_key(&field.json_name), "{name}.{} is not in k8s-openapi", field.json_name);
            }
            compared += 1;
        }
        assert!(compared > 300, "{compared}");
    }
}
