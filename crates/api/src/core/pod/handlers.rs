//! What probes and lifecycle hooks may do.

use serde_json::Value;

use crate::core::service::validate_target_port;
use crate::field::{self, Path};
use crate::names;
use crate::tree::{absent, int, list, text};

/// A non-negative number at `field` of `value`.
pub(crate) fn non_negative(value: &Value, field: &str, path: &Path) -> Option<field::Error> {
    let number = int(&value[field]);
    (number < 0).then(|| field::Error::invalid(&path.child(field), number, "must be greater than or equal to 0"))
}

/// The probes of a container.
pub(super) fn validate_probes(container: &Value, grace: i64, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (probe, path) = (&container[name], path.child(name));
        if absent(probe) {
            continue;
        }
        errors.extend(validate_probe(probe, grace, &path));
        let period = &probe["terminationGracePeriodSeconds"];
        if name == "readinessProbe" {
            if !absent(period) {
                let path = path.child("terminationGracePeriodSeconds");
                errors.push(field::Error::invalid(&path, period.clone(), "must not be set for readinessProbes"));
            }
        } else if int(&probe["successThreshold"]) != 1 {
            let threshold = int(&probe["successThreshold"]);
            errors.push(field::Error::invalid(&path.child("successThreshold"), threshold, "must be 1"));
        }
    }
    errors
}

/// The lifecycle hooks of a container.
pub(super) fn validate_lifecycle(container: &Value, grace: i64, path: &Path) -> Vec<field::Error> {
    let path = path.child("lifecycle");
    let hooks = ["postStart", "preStop"].into_iter();
    hooks
        .filter(|hook| !absent(&container["lifecycle"][*hook]))
        .flat_map(|hook| validate_handler(&container["lifecycle"][hook], grace, &path.child(hook)))
        .collect()
}

fn validate_probe(probe: &Value, grace: i64, path: &Path) -> Vec<field::Error> {
    let mut errors = validate_handler(probe, grace, path);
    let numbers = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    errors.extend(numbers.into_iter().filter_map(|field| non_negative(probe, field, path)));
    let period = &probe["terminationGracePeriodSeconds"];
    if !absent(period) && int(period) <= 0 {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(field::Error::invalid(&path, period.clone(), "must be greater than 0"));
    }
    errors
}

fn validate_handler(handler: &Value, grace: i64, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let mut handlers = 0;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let (action, path) = (&handler[name], path.child(name));
        if absent(action) {
            continue;
        }
        handlers += 1;
        if handlers > 1 {
            errors.push(field::Error::forbidden(&path, "may not specify more than 1 handler type"));
            continue;
        }
        errors.extend(match name {
            "exec" if list(&action["command"]).is_empty() => vec![field::Error::required(&path.child("command"), "")],
            "exec" => Vec::new(),
            "httpGet" => validate_http(action, &path),
            "tcpSocket" | "grpc" => validate_target_port(&action["port"], &path.child("port")),
            _ => validate_sleep(action, grace, &path),
        });
    }
    if handlers == 0 {
        errors.push(field::Error::required(path, "must specify a handler type"));
    }
    errors
}

fn validate_http(action: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if text(&action["path"]).is_empty() {
        errors.push(field::Error::required(&path.child("path"), ""));
    }
    errors.extend(validate_target_port(&action["port"], &path.child("port")));
    let scheme = text(&action["scheme"]);
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.push(field::Error::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in list(&action["httpHeaders"]) {
        let (name, path) = (text(&header["name"]), path.child("httpHeaders"));
        let mistakes = names::http_header_name(name);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, name, what)));
    }
    errors
}

fn validate_sleep(action: &Value, grace: i64, path: &Path) -> Vec<field::Error> {
    let seconds = int(&action["seconds"]);
    if (0..=grace).contains(&seconds) {
        return Vec::new();
    }
    let what = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
    vec![field::Error::invalid(path, seconds, what)]
}
