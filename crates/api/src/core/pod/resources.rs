//! How much a container may ask for and be limited to.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::tree::{entries, list, text};

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";

/// Mistakes in `resources`.
pub(super) fn validate(resources: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (mut enough, mut huge) = (false, false);
    for kind in ["limits", "requests"] {
        for (name, value) in entries(&resources[kind]) {
            let at = path.child(kind).key(name);
            errors.extend(validate_name(name, &at));
            errors.extend(validate_amount(name, value, &at));
            if kind == "requests" {
                errors.extend(validate_request(name, value, &resources["limits"], path));
            }
            enough |= matches!(name, "cpu" | "memory");
            huge |= name.starts_with(HUGE_PAGES);
        }
    }
    if huge && !enough {
        errors.push(field::Error::forbidden(path, "HugePages require cpu or memory"));
    }
    for (i, claim) in list(&resources["claims"]).iter().enumerate() {
        let what = "must be one of the names in pod.spec.resourceClaims which is empty";
        errors.push(field::Error::not_found(&path.child("claims").index(i), text(&claim["name"])).because(what));
    }
    errors
}

/// The amounts that make no sense but are let through, for a warning.
pub(super) fn fractional_bytes(resources: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for kind in ["limits", "requests"] {
        for (name, value) in entries(&resources[kind]) {
            let bytes = matches!(name, "memory" | "ephemeral-storage");
            if bytes && amount(value).is_some_and(|amount| !amount.is_whole()) {
                let shown = field::quoted(text(value));
                let at = path.child(kind).key(name);
                warnings.push(format!("{at}: fractional byte value {shown} is invalid, must be an integer"));
            }
        }
    }
    warnings
}

/// Something else than what every node has needs a domain.
fn validate_name(name: &str, path: &Path) -> Vec<field::Error> {
    let invalid = |what: String| field::Error::invalid(path, name, what);
    let mut errors: Vec<field::Error> = names::qualified_name(name).into_iter().map(invalid).collect();
    if errors.is_empty() && !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with(HUGE_PAGES) {
        errors.push(invalid("must be a standard resource type or fully qualified".to_owned()));
        errors.push(invalid("must be a standard resource for containers".to_owned()));
    }
    errors
}

fn validate_amount(name: &str, value: &Value, path: &Path) -> Option<field::Error> {
    let what = match amount(value) {
        None => "must be a quantity",
        Some(amount) if amount.is_negative() => "must be greater than or equal to 0",
        Some(amount) if !overcommitted(name) && !amount.is_whole() => "must be an integer",
        Some(_) => return None,
    };
    Some(field::Error::invalid(path, value.clone(), what))
}

fn validate_request(name: &str, value: &Value, limits: &Value, path: &Path) -> Option<field::Error> {
    let limit = &limits[name];
    let request = amount(value)?;
    let Some(most) = amount(limit) else {
        let what = "Limit must be set for non overcommitable resources";
        return (!overcommitted(name)).then(|| field::Error::required(&path.child("limits"), what));
    };
    let relation = match request > most {
        _ if !overcommitted(name) && request != most => "equal to",
        true => "less than or equal to",
        false => return None,
    };
    let what = format!("must be {relation} {name} limit of {}", text(limit));
    Some(field::Error::invalid(&path.child("requests"), value.clone(), what))
}

/// Of these a node may promise more than it has.
fn overcommitted(name: &str) -> bool {
    !name.contains('/') && !name.starts_with(HUGE_PAGES)
}

fn amount(quantity: &Value) -> Option<Quantity> {
    text(quantity).parse().ok()
}
