//! A Pod's quality-of-service class, from what its containers ask for and are held to.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::tree::{entries, list, text};

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let containers = list(&spec["containers"]).iter().chain(list(&spec["initContainers"]));
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut all_limited = true;
    for container in containers {
        add(&mut requests, &container["resources"]["requests"]);
        let limited = add(&mut limits, &container["resources"]["limits"]);
        all_limited &= limited == COMPUTE.len();
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds the compute resources of a container, in thousandths; answers how many it names.
fn add<'a>(total: &mut BTreeMap<&'a str, i128>, resources: &'a Value) -> usize {
    let named = entries(resources).filter(|(name, _)| COMPUTE.contains(name));
    let amounts = named.filter_map(|(name, value)| Some((name, text(value).parse::<Quantity>().ok()?.milli())));
    let mut count = 0;
    for (name, amount) in amounts.filter(|(_, amount)| *amount > 0) {
        count += 1;
        let sum = total.entry(name).or_insert(0);
        *sum = amount.saturating_add(*sum);
    }
    count
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"requests": {"example.com/gpu": "1"}}}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (json!([{"resources": {"requests": full, "limits": full}}]), "Guaranteed"),
            (json!([{"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": full}}]), "Guaranteed"),
            (json!([{"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": full}}]), "Burstable"),
            (json!([{"resources": {"requests": full, "limits": full}}, {}]), "Burstable"),
        ];
        for (containers, expected) in cases {
            assert_eq!(class(&json!({"spec": {"containers": containers}})), expected, "{containers}");
        }
    }
}
