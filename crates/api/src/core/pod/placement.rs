//! Where a Pod may ask to be: affinity to nodes and to other pods, and how it is spread.

use serde_json::Value;

use crate::field::{self, Path};
use crate::labels;
use crate::names;
use crate::tree::{absent, int, list, text, texts};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EMPTY: &str = "can not be empty";

/// Mistakes in `affinity`.
pub(super) fn validate_affinity(spec: &Value, path: &Path) -> Vec<field::Error> {
    let (affinity, path) = (&spec["affinity"], path.child("affinity"));
    let mut errors = validate_node_affinity(&affinity["nodeAffinity"], &path.child("nodeAffinity"));
    for field in ["podAffinity", "podAntiAffinity"] {
        let (affinity, path) = (&affinity[field], path.child(field));
        for (i, term) in list(&affinity[REQUIRED]).iter().enumerate() {
            errors.extend(validate_term(term, &path.child(REQUIRED).index(i)));
        }
        for (i, weighted) in list(&affinity[PREFERRED]).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            errors.extend(validate_weight(weighted, &path));
            errors.extend(validate_term(&weighted["podAffinityTerm"], &path.child("podAffinityTerm")));
        }
    }
    errors
}

/// Mistakes in `topologySpreadConstraints`.
pub(super) fn validate_spread(spec: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (i, constraint) in list(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        let skew = int(&constraint["maxSkew"]);
        if skew <= 0 {
            errors.push(field::Error::invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        if text(&constraint["topologyKey"]).is_empty() {
            errors.push(field::Error::required(&path.child("topologyKey"), EMPTY));
        }
        let action = text(&constraint["whenUnsatisfiable"]);
        let actions = &["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.push(field::Error::not_supported(&path.child("whenUnsatisfiable"), action, actions));
        }
        errors.extend(labels::validate_selector(&constraint["labelSelector"], &path.child("labelSelector")));
    }
    errors
}

fn validate_node_affinity(affinity: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (required, required_path) = (&affinity[REQUIRED], path.child(REQUIRED));
    if !absent(required) {
        let path = required_path.child("nodeSelectorTerms");
        let terms = list(&required["nodeSelectorTerms"]);
        if terms.is_empty() {
            errors.push(field::Error::required(&path, "must have at least one node selector term"));
        }
        errors.extend(terms.iter().enumerate().flat_map(|(i, term)| validate_node_term(term, &path.index(i))));
    }
    for (i, weighted) in list(&affinity[PREFERRED]).iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        errors.extend(validate_weight(weighted, &path));
        errors.extend(validate_node_term(&weighted["preference"], &path.child("preference")));
    }
    errors
}

fn validate_weight(weighted: &Value, path: &Path) -> Option<field::Error> {
    let weight = int(&weighted["weight"]);
    let bad = !(1..=100).contains(&weight);
    bad.then(|| field::Error::invalid(&path.child("weight"), weight, "must be in the range 1-100"))
}

fn validate_node_term(term: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (i, requirement) in list(&term["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let (count, operator) = (texts(&requirement["values"]).len(), text(&requirement["operator"]));
        let values = path.child("values");
        match operator {
            "In" | "NotIn" if count == 0 => {
                errors.push(field::Error::required(&values, "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let what = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(field::Error::forbidden(&values, what));
            }
            "Gt" | "Lt" if count != 1 => {
                let what = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(field::Error::required(&values, what));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                errors.push(field::Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
            }
        }
        let (key, path) = (text(&requirement["key"]), path.child("key"));
        errors.extend(names::qualified_name(key).into_iter().map(|what| field::Error::invalid(&path, key, what)));
    }
    errors
}

fn validate_term(term: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = labels::validate_selector(&term["labelSelector"], &path.child("labelSelector"));
    errors.extend(labels::validate_selector(&term["namespaceSelector"], &path.child("namespaceSelector")));
    for namespace in texts(&term["namespaces"]) {
        let (path, mistakes) = (path.child("namespace"), names::dns_label(namespace, false));
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, namespace, what)));
    }
    let (key, path) = (text(&term["topologyKey"]), path.child("topologyKey"));
    if key.is_empty() {
        errors.push(field::Error::required(&path, EMPTY));
    }
    errors.extend(names::qualified_name(key).into_iter().map(|what| field::Error::invalid(&path, key, what)));
    errors
}
