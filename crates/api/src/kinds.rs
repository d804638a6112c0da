//! The kinds the API serves, one line each. Not responsible for their rules: each has a file or folder of its own.

use crate::resource::Resource;
use crate::{apps, coordination, core, discovery, events, networking, reviews};

/// Every kind, in the order discovery lists them.
pub fn resources() -> &'static [&'static Resource] {
    RESOURCES
}

/// The kind served under `group`, `version` and `plural`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural).copied()
}

/// The kind called `kind` in `group` and `version`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.kind == kind).copied()
}

static RESOURCES: &[&Resource] = &[
    &core::config_map::RESOURCE,
    &core::endpoints::RESOURCE,
    &core::event::RESOURCE,
    &core::limit_range::RESOURCE,
    &core::namespace::RESOURCE,
    &core::node::RESOURCE,
    &core::pod::RESOURCE,
    &core::resource_quota::RESOURCE,
    &core::secret::RESOURCE,
    &core::service::RESOURCE,
    &core::service_account::RESOURCE,
    &apps::deployment::RESOURCE,
    &apps::replica_set::RESOURCE,
    &coordination::lease::RESOURCE,
    &discovery::endpoint_slice::RESOURCE,
    &events::EVENT,
    &networking::ip_address::RESOURCE,
    &networking::service_cidr::RESOURCE,
    &reviews::SELF_SUBJECT,
    &reviews::SELF_ACCESS,
    &reviews::SELF_RULES,
    &reviews::ACCESS,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn kinds_are_unique_and_have_as_many_cells_as_columns() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut seen = BTreeSet::new();
        for resource in resources() {
            assert!(seen.insert((resource.group, resource.version, resource.plural)), "{}", resource.qualified());
            let strategy = resource.strategy;
            for object in [json!({}), Value::Null, json!({"metadata": {"name": "x"}, "spec": 1, "status": []})] {
                assert_eq!(strategy.cells(&object, now).len(), strategy.columns().len(), "{}", resource.kind);
            }
            assert_eq!(find(resource.group, resource.version, resource.plural).map(|r| r.kind), Some(resource.kind));
            assert_eq!(
                find_kind(resource.group, resource.version, resource.kind).map(|r| r.plural),
                Some(resource.plural)
            );
        }
    }

    #[test]
    fn short_names_are_unique() {
        // Another spelling of a kind has its name.
        let own = resources().iter().filter(|r| r.strategy.stored().is_none());
        let names: Vec<&str> = own.flat_map(|r| r.short_names).copied().collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    /// Objects come from anybody: whatever their shape, a kind's rules answer, they don't panic.
    #[test]
    fn no_shape_of_object_panics() {
        let odd = [
            json!(null),
            json!([]),
            json!("x"),
            json!(-1),
            json!({}),
            json!([null, 1, "a", {}, [[]]]),
            json!({"a": []}),
        ];
        for resource in resources() {
            for inner in &odd {
                let object = json!({"metadata": inner, "spec": inner, "status": inner, "data": inner, "subsets": inner,
                                    "endpoints": inner, "ports": inner, "type": inner});
                let deeper = json!({"spec": {"ports": inner, "selector": inner, "template": inner, "containers": inner,
                                    "clusterIPs": inner, "cidrs": inner, "volumes": inner, "strategy": inner},
                                    "status": {"conditions": inner, "loadBalancer": inner, "containerStatuses": inner}});
                for object in [object, deeper, inner.clone()] {
                    exercise(resource, object);
                }
            }
        }
    }

    fn exercise(resource: &Resource, mut object: Value) {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let strategy = resource.strategy;
        let old = object.clone();
        strategy.default(&mut object);
        for subresource in ["", "status", "scale", "finalize"] {
            let context = crate::Context { now, subresource };
            let mut new = object.clone();
            strategy.prepare_for_create(&context, &mut new);
            strategy.prepare_for_update(&context, &mut new, &old);
            strategy.validate_update(&context, &new, &old);
        }
        strategy.validate(&object);
        strategy.warnings(&object, Some(&old));
        strategy.cells(&object, now);
        strategy.grace_period(&object, None);
        for label in strategy.field_labels() {
            strategy.field(&object, label);
        }
    }
}
