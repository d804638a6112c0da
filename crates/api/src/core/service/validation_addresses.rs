//! What the cluster addresses and families of a Service may be, and how they may change.

use std::collections::BTreeSet;

use serde_json::Value;

use super::shape::{HEADLESS, is_external_name, is_headless};
use crate::address::{IpFamily, parse_ip, validate_legacy_ip};
use crate::field::{self, Path};
use crate::tree::{absent, list, text, texts};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const CHANGED: &str = "may not change once set";

/// Mistakes in `clusterIP`, `clusterIPs`, `ipFamilies`, `ipFamilyPolicy`, each alone and together.
pub(super) fn validate(service: &Value, old: Option<&Value>) -> Vec<field::Error> {
    if is_external_name(service) {
        return Vec::new();
    }
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let mut errors = validate_pairing(spec, &path);
    errors.extend(validate_families(spec, &path));
    let ips_path = path.child("clusterIPs");
    let all = &spec["clusterIPs"];
    let ips = texts(all);
    let existing = old.map(|old| texts(&old["spec"]["clusterIPs"])).unwrap_or_default();
    let mut invalid = false;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && *ip == HEADLESS {
            if ips.len() > 1 {
                invalid = true;
                errors.push(field::Error::invalid(&ips_path, all.clone(), "'None' must be the first and only value"));
            }
            continue;
        }
        let mistakes = validate_legacy_ip(&ips_path.index(i), ip, &existing);
        invalid |= !mistakes.is_empty();
        errors.extend(mistakes);
    }
    if ips.len() > 2 {
        errors.push(field::Error::invalid(&ips_path, all.clone(), "may only hold up to 2 values"));
    }
    if invalid {
        return errors;
    }
    let families: Vec<IpFamily> = ips.iter().filter_map(|ip| parse_ip(ip)).map(IpFamily::of).collect();
    if ips.len() > 1 && families.iter().collect::<BTreeSet<_>>().len() < 2 {
        let what = "may specify no more than one IP for each IP family";
        errors.push(field::Error::invalid(&ips_path, all.clone(), what));
    }
    if !is_headless(service) {
        let wanted = texts(&spec["ipFamilies"]);
        for (i, ((ip, family), wanted)) in ips.iter().zip(&families).zip(wanted).enumerate() {
            if IpFamily::named(wanted).is_some_and(|wanted| wanted != *family) {
                let what = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
                errors.push(field::Error::invalid(&ips_path.index(i), *ip, what));
            }
        }
    }
    errors
}

/// What an update may do to them: a second address may come, and go when the policy says so; the first stays.
pub(super) fn validate_change(new: &Value, old: &Value) -> Vec<field::Error> {
    if is_external_name(new) || is_external_name(old) {
        return Vec::new();
    }
    let (now, before) = (is_headless(new), is_headless(old));
    let mut errors = Vec::new();
    if !(now && before) {
        errors.extend(validate_address_change(new, old));
    }
    if !now && !before {
        errors.extend(validate_family_change(new, old));
    }
    errors
}

fn validate_pairing(spec: &Value, path: &Path) -> Vec<field::Error> {
    let path = path.child("clusterIPs");
    let all = &spec["clusterIPs"];
    match (text(&spec["clusterIP"]), texts(all).first()) {
        ("", None) => Vec::new(),
        ("", Some(_)) => {
            vec![field::Error::invalid(&path, all.clone(), "must be empty when `clusterIP` is not specified")]
        }
        (_, None) => vec![field::Error::required(&path, "")],
        (ip, Some(first)) if ip == *first => Vec::new(),
        _ => vec![field::Error::invalid(&path, all.clone(), "first value must match `clusterIP`")],
    }
}

fn validate_families(spec: &Value, path: &Path) -> Vec<field::Error> {
    let families_path = path.child("ipFamilies");
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, family) in texts(&spec["ipFamilies"]).into_iter().enumerate() {
        let path = families_path.index(i);
        if !FAMILIES.contains(&family) {
            errors.push(field::Error::not_supported(&path, family, FAMILIES));
        }
        if !seen.insert(family) {
            errors.push(field::Error::duplicate(&path, family));
        }
    }
    let policy = &spec["ipFamilyPolicy"];
    if !absent(policy) && !POLICIES.contains(&text(policy)) {
        errors.push(field::Error::not_supported(&path.child("ipFamilyPolicy"), policy.clone(), POLICIES));
    }
    errors
}

fn validate_address_change(new: &Value, old: &Value) -> Vec<field::Error> {
    let path = Path::new("spec").child("clusterIPs");
    let all = &new["spec"]["clusterIPs"];
    let (now, before) = (texts(all), texts(&old["spec"]["clusterIPs"]));
    let mut errors = Vec::new();
    if now.len() == before.len() {
        let changed = now.iter().zip(&before).enumerate().filter(|(_, (now, before))| now != before);
        errors.extend(changed.map(|(i, _)| field::Error::invalid(&path.index(i), all.clone(), CHANGED)));
        return errors;
    }
    if now.is_empty() {
        errors.push(field::Error::invalid(&path.index(0), all.clone(), "primary clusterIP can not be unset"));
    }
    if primary_changed(&now, &before) {
        errors.push(field::Error::invalid(&path.index(0), all.clone(), CHANGED));
    }
    if now.len() < before.len() && now.len() == 1 {
        errors.extend(validate_release(new, "clusterIP"));
    }
    errors
}

fn validate_family_change(new: &Value, old: &Value) -> Vec<field::Error> {
    let path = Path::new("spec").child("ipFamilies").index(0);
    let (families, ips) = (&new["spec"]["ipFamilies"], &new["spec"]["clusterIPs"]);
    let (now, before) = (texts(families), texts(&old["spec"]["ipFamilies"]));
    let mut errors = Vec::new();
    if now.len() == before.len() {
        let changed = now.iter().zip(&before).filter(|(now, before)| now != before).count();
        // Upstream names the first entry for each difference.
        errors.extend((0..changed).map(|_| field::Error::invalid(&path, families.clone(), CHANGED)));
        return errors;
    }
    if now.len() < before.len() && list(ips).is_empty() {
        errors.push(field::Error::invalid(&path, families.clone(), "primary ipFamily can not be unset"));
    }
    if primary_changed(&now, &before) {
        // Upstream prints the addresses here, not the families.
        errors.push(field::Error::invalid(&path, ips.clone(), CHANGED));
    }
    if now.len() < before.len() && now.len() == 1 {
        errors.extend(validate_release(new, "ipFamily"));
    }
    errors
}

fn primary_changed(now: &[&str], before: &[&str]) -> bool {
    matches!((now.first(), before.first()), (Some(now), Some(before)) if now != before)
}

/// Giving up the second family must be asked for, not inferred.
fn validate_release(new: &Value, what: &str) -> Option<field::Error> {
    let policy = &new["spec"]["ipFamilyPolicy"];
    let path = Path::new("spec").child("ipFamilyPolicy");
    let text_of = format!("must be set to 'SingleStack' when releasing the secondary {what}");
    (text(policy) != "SingleStack").then(|| field::Error::invalid(&path, policy.clone(), text_of))
}
