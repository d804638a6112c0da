//! Which IP families a Service gets in this cluster, from what it asks for. Validation judges what was asked; addresses
//! are `allocation`'s.

use serde_json::{Value, json};

use super::shape::{HEADLESS, is_external_name, same_texts};
use super::validation_addresses;
use crate::address::{IpFamily, parse_ip};
use crate::field::{self, Path};
use crate::tree::{absent, child_mut, copy, list, text, texts, unset};

/// Fills `ipFamilyPolicy` and `ipFamilies` in, or says why the cluster can't give what was asked. `cluster` has the
/// cluster's families, its default first.
pub(super) fn assign(new: &mut Value, old: Option<&Value>, cluster: &[IpFamily]) -> Result<(), Vec<field::Error>> {
    if is_external_name(new) || old.is_some_and(|old| keeps_preferred(new, old)) {
        return Ok(());
    }
    default_policy(new, old);
    refuse(validation_addresses::validate(new, old))?;
    let mut errors = old.map(|old| settle_change(new, old)).unwrap_or_default();
    errors.extend(check_single_stack(new));
    errors.extend(infer_families(new, cluster));
    refuse(errors)?;
    let default = cluster.first().copied().unwrap_or(IpFamily::V4);
    if text(&new["spec"]["clusterIP"]) == HEADLESS && unset(&new["spec"]["selector"]) {
        // Nobody knows what endpoints will be written by hand: both families, also on a single-stack cluster.
        fill_families(new, default, true);
        return Ok(());
    }
    refuse(check_configured(new, cluster))?;
    fill_families(new, default, cluster.len() == 2);
    Ok(())
}

/// A PreferDualStack Service changes with its spec, never because the cluster did.
pub(super) fn keeps_preferred(new: &Value, old: &Value) -> bool {
    let policy = |service: &Value| text(&service["spec"]["ipFamilyPolicy"]).to_owned();
    let old_policy = policy(old);
    policy(new) == "PreferDualStack"
        && (old_policy.is_empty() || old_policy == "PreferDualStack")
        && same_type(new, old)
        && same_texts(new, old, "clusterIPs")
        && same_texts(new, old, "ipFamilies")
}

fn same_type(new: &Value, old: &Value) -> bool {
    let kind = text(&new["spec"]["type"]);
    kind == text(&old["spec"]["type"]) && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn default_policy(new: &mut Value, old: Option<&Value>) {
    if !absent(&new["spec"]["ipFamilyPolicy"]) {
        return;
    }
    if let Some(old) = old.filter(|old| !absent(&old["spec"]["ipFamilyPolicy"])) {
        copy(child_mut(new, "spec"), &old["spec"], "ipFamilyPolicy");
        return;
    }
    let handmade = text(&new["spec"]["clusterIP"]) == HEADLESS && unset(&new["spec"]["selector"]);
    let policy = if handmade { "RequireDualStack" } else { "SingleStack" };
    *child_mut(child_mut(new, "spec"), "ipFamilyPolicy") = policy.into();
}

/// Turning SingleStack gives the second family up; giving it up any other way is refused.
fn settle_change(new: &mut Value, old: &Value) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (list_name, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (list(&new["spec"][list_name]).len(), list(&old["spec"][list_name]).len());
        if text(&new["spec"]["ipFamilyPolicy"]) == "SingleStack" {
            if same_texts(new, old, list_name) && now > 1 {
                let first = list(&new["spec"][list_name])[..1].to_vec();
                *child_mut(child_mut(new, "spec"), list_name) = first.into();
            }
        } else if now > 0 && now < before {
            errors.push(policy_error(new, &format!("must be 'SingleStack' to release the secondary {what}")));
        }
    }
    errors
}

fn check_single_stack(new: &Value) -> Vec<field::Error> {
    if text(&new["spec"]["ipFamilyPolicy"]) != "SingleStack" {
        return Vec::new();
    }
    let lists = [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")].into_iter();
    lists
        .filter(|(name, _)| list(&new["spec"][*name]).len() == 2)
        .map(|(_, what)| {
            let text = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            policy_error(new, &text)
        })
        .collect()
}

/// Addresses given without their families say them.
fn infer_families(new: &mut Value, cluster: &[IpFamily]) -> Vec<field::Error> {
    let mut families: Vec<Value> = list(&new["spec"]["ipFamilies"]).to_vec();
    let mut errors = Vec::new();
    for (i, ip) in texts(&new["spec"]["clusterIPs"]).into_iter().enumerate() {
        if ip == HEADLESS {
            break;
        }
        let Some(family) = parse_ip(ip).map(IpFamily::of).filter(|_| i >= families.len()) else { continue };
        if cluster.contains(&family) {
            families.push(family.name().into());
        } else {
            let path = Path::new("spec").child("clusterIPs").index(i);
            let what = format!("{} is not configured on this cluster", family.name());
            errors.push(field::Error::invalid(&path, new["spec"]["clusterIPs"].clone(), what));
        }
    }
    if !families.is_empty() {
        *child_mut(child_mut(new, "spec"), "ipFamilies") = families.into();
    }
    errors
}

fn check_configured(new: &Value, cluster: &[IpFamily]) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if text(&new["spec"]["ipFamilyPolicy"]) == "RequireDualStack" && cluster.len() < 2 {
        errors.push(policy_error(new, "this cluster is not configured for dual-stack services"));
    }
    let path = Path::new("spec").child("ipFamilies");
    for (i, family) in texts(&new["spec"]["ipFamilies"]).into_iter().enumerate() {
        if IpFamily::named(family).is_none_or(|family| !cluster.contains(&family)) {
            errors.push(field::Error::invalid(&path.index(i), family, "not configured on this cluster"));
        }
    }
    errors
}

fn fill_families(new: &mut Value, default: IpFamily, both: bool) {
    let mut families: Vec<IpFamily> =
        texts(&new["spec"]["ipFamilies"]).into_iter().filter_map(IpFamily::named).collect();
    if families.is_empty() {
        families.push(default);
    }
    if families.len() == 1 && both && text(&new["spec"]["ipFamilyPolicy"]) != "SingleStack" {
        families.push(families[0].other());
    }
    let names: Vec<&str> = families.into_iter().map(IpFamily::name).collect();
    *child_mut(child_mut(new, "spec"), "ipFamilies") = json!(names);
}

fn policy_error(new: &Value, what: &str) -> field::Error {
    field::Error::invalid(&Path::new("spec").child("ipFamilyPolicy"), new["spec"]["ipFamilyPolicy"].clone(), what)
}

fn refuse(errors: Vec<field::Error>) -> Result<(), Vec<field::Error>> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &[IpFamily] = &[IpFamily::V4];
    const DUAL: &[IpFamily] = &[IpFamily::V4, IpFamily::V6];
    const DUAL_V6: &[IpFamily] = &[IpFamily::V6, IpFamily::V4];

    fn given(cluster: &[IpFamily], spec: Value, old: Option<Value>) -> Result<Value, String> {
        let mut new = json!({"spec": {"type": "ClusterIP", "selector": {"a": "b"}}});
        let fields = spec.as_object().expect("a map").clone();
        new["spec"].as_object_mut().expect("a map").extend(fields);
        let old = old.map(|spec| json!({"spec": spec}));
        match assign(&mut new, old.as_ref(), cluster) {
            Ok(()) => Ok(json!([new["spec"]["ipFamilyPolicy"], new["spec"]["ipFamilies"], new["spec"]["clusterIPs"]])),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }

    #[test]
    fn families_on_create() {
        let ips = |ips: Value| json!({"clusterIP": ips[0], "clusterIPs": ips});
        let cases = [
            (V4, json!({}), json!(["SingleStack", ["IPv4"], null])),
            (DUAL, json!({}), json!(["SingleStack", ["IPv4"], null])),
            (DUAL_V6, json!({}), json!(["SingleStack", ["IPv6"], null])),
            (V4, json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["PreferDualStack", ["IPv4"], null])),
            (DUAL, json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["PreferDualStack", ["IPv4", "IPv6"], null])),
            (
                DUAL_V6,
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                json!(["RequireDualStack", ["IPv6", "IPv4"], null]),
            ),
            (DUAL, json!({"ipFamilies": ["IPv6"]}), json!(["SingleStack", ["IPv6"], null])),
            (
                DUAL,
                json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"}),
                json!(["PreferDualStack", ["IPv6", "IPv4"], null]),
            ),
            (DUAL, ips(json!(["fd00::1"])), json!(["SingleStack", ["IPv6"], ["fd00::1"]])),
            (V4, ips(json!(["None"])), json!(["SingleStack", ["IPv4"], ["None"]])),
            (
                V4,
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {}}),
                json!(["RequireDualStack", ["IPv4", "IPv6"], ["None"]]),
            ),
            (
                DUAL_V6,
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {}, "ipFamilyPolicy": "SingleStack"}),
                json!(["SingleStack", ["IPv6"], ["None"]]),
            ),
            (V4, json!({"type": "ExternalName"}), json!([null, null, null])),
        ];
        for (cluster, spec, expected) in cases {
            assert_eq!(given(cluster, spec.clone(), None), Ok(expected), "{cluster:?} {spec}");
        }
    }

    #[test]
    fn what_the_cluster_cannot_give() {
        let cases = [
            (
                V4,
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                V4,
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                V4,
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ),
            (
                DUAL,
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
                 multiple cluster IPs are specified",
            ),
            (
                DUAL,
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
                 multiple IP families are specified",
            ),
            (
                V4,
                json!({"ipFamilyPolicy": "Both"}),
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \
                 \"RequireDualStack\", \"SingleStack\"",
            ),
        ];
        for (cluster, spec, expected) in cases {
            assert_eq!(given(cluster, spec.clone(), None), Err(expected.to_owned()), "{cluster:?} {spec}");
        }
    }

    #[test]
    fn families_on_update() {
        let dual = json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
                          "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
        let single = json!({"type": "ClusterIP", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
                            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        let with = |base: &Value, field: &str, value: Value| {
            let mut spec = base.clone();
            spec[field] = value;
            spec
        };
        let cases = [
            // Nothing asked, nothing changed, whatever the cluster has become.
            (V4, dual.clone(), dual.clone(), Ok(json!(["PreferDualStack", ["IPv4", "IPv6"], ["10.0.0.1", "fd00::1"]]))),
            (
                DUAL,
                with(&dual, "ipFamilyPolicy", json!("SingleStack")),
                dual.clone(),
                Ok(json!(["SingleStack", ["IPv4"], ["10.0.0.1"]])),
            ),
            (
                DUAL,
                with(&single, "ipFamilyPolicy", json!("PreferDualStack")),
                single.clone(),
                Ok(json!(["PreferDualStack", ["IPv4", "IPv6"], ["10.0.0.1"]])),
            ),
            (
                DUAL,
                with(&dual, "clusterIPs", json!(["10.0.0.1"])),
                dual.clone(),
                Err(
                    "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary \
                     cluster IP",
                ),
            ),
            (
                DUAL,
                with(&dual, "ipFamilies", json!(["IPv4"])),
                dual.clone(),
                Err(
                    "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary \
                     IP family",
                ),
            ),
        ];
        for (cluster, spec, old, expected) in cases {
            assert_eq!(given(cluster, spec.clone(), Some(old)), expected.map_err(str::to_owned), "{cluster:?} {spec}");
        }
    }
}
