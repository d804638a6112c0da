//! What a Deployment may look like, with upstream's paths and words.

use serde_json::Value;

use crate::apps::template::{self, non_negative};
use crate::field::{self, Path};
use crate::names;
use crate::tree::{absent, int, text};

/// Every mistake in a Deployment.
pub(super) fn validate(object: &Value) -> Vec<field::Error> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut errors: Vec<field::Error> = non_negative(spec, "replicas", &path).into_iter().collect();
    errors.extend(template::validate(spec, &path));
    errors.extend(validate_strategy(&spec["strategy"], &path.child("strategy")));
    errors.extend(non_negative(spec, "minReadySeconds", &path));
    errors.extend(non_negative(spec, "revisionHistoryLimit", &path));
    let deadline = &spec["progressDeadlineSeconds"];
    if !absent(deadline) {
        errors.extend(non_negative(spec, "progressDeadlineSeconds", &path));
        if int(deadline) <= int(&spec["minReadySeconds"]) {
            let path = path.child("progressDeadlineSeconds");
            errors.push(field::Error::invalid(&path, deadline.clone(), "must be greater than minReadySeconds"));
        }
    }
    errors
}

/// Every mistake in an update of the status.
pub(super) fn validate_status(new: &Value, old: &Value) -> Vec<field::Error> {
    let status = &new["status"];
    let mut errors = template::validate_counts(status, &["updatedReplicas", "readyReplicas", "availableReplicas"]);
    let path = Path::new("status");
    errors.extend(non_negative(status, "unavailableReplicas", &path));
    errors.extend(non_negative(status, "collisionCount", &path));
    let (count, before) = (&status["collisionCount"], &old["status"]["collisionCount"]);
    if !absent(before) && (absent(count) || int(count) < int(before)) {
        errors.push(field::Error::invalid(&path.child("collisionCount"), int(count), "cannot be decremented"));
    }
    errors
}

fn validate_strategy(strategy: &Value, path: &Path) -> Vec<field::Error> {
    let (rolling, rolling_path) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "Recreate" if absent(rolling) => Vec::new(),
        "Recreate" => {
            vec![field::Error::forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'")]
        }
        "RollingUpdate" if absent(rolling) => {
            vec![field::Error::required(&rolling_path, "this should be defaulted and never be nil")]
        }
        "RollingUpdate" => validate_rolling(rolling, &rolling_path),
        kind => {
            // Upstream prints the internal struct.
            let printed = format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", field::quoted(kind));
            let supported = &["Recreate", "RollingUpdate"];
            vec![field::Error::not_supported(path, Value::Null, supported).printed_as(printed)]
        }
    }
}

fn validate_rolling(rolling: &Value, path: &Path) -> Vec<field::Error> {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let unavailable_path = path.child("maxUnavailable");
    let mut errors = validate_int_or_percent(unavailable, &unavailable_path);
    errors.extend(validate_int_or_percent(surge, &path.child("maxSurge")));
    if amount(unavailable) == 0 && amount(surge) == 0 {
        let what = "may not be 0 when `maxSurge` is 0";
        errors.push(field::Error::invalid(&unavailable_path, unavailable.clone(), what));
    }
    if unavailable.is_string() && amount(unavailable) > 100 {
        errors.push(field::Error::invalid(&unavailable_path, unavailable.clone(), "must not be greater than 100%"));
    }
    errors
}

fn validate_int_or_percent(value: &Value, path: &Path) -> Vec<field::Error> {
    let mistakes = match value {
        Value::String(percent) => names::percent(percent),
        number if int(number) < 0 => vec!["must be greater than or equal to 0".to_owned()],
        _ => Vec::new(),
    };
    mistakes.into_iter().map(|what| field::Error::invalid(path, value.clone(), what)).collect()
}

/// The number, or the number of percent.
fn amount(value: &Value) -> i64 {
    match value {
        Value::String(percent) => percent.trim_end_matches('%').parse().unwrap_or_default(),
        number => int(number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{context, deployment};
    use super::*;

    fn texts(errors: Vec<field::Error>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mistakes() {
        let template = |labels: Value, spec: Value| json!({"template": {"metadata": {"labels": labels}, "spec": spec}});
        let rolling = |unavailable: Value, surge: Value| json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}});
        let app = json!({"app": "web"});
        let pod = json!({"containers": [{"name": "c", "image": "x"}]});
        let with = |field: &str, value: Value| {
            let mut pod = pod.clone();
            pod[field] = value;
            template(app.clone(), pod)
        };
        let cases: [(Value, &[&str]); 16] = [
            (json!({}), &[]),
            (json!({"replicas": -1}), &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
            (
                json!({"selector": null}),
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                ],
            ),
            (json!({"selector": {}}), &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]),
            (
                template(json!({"app": "db"}), pod.clone()),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"db\"}: `selector` does not match template `labels`",
                ],
            ),
            (template(app.clone(), json!({})), &["spec.template.spec.containers: Required value"]),
            (
                template(app.clone(), json!({"containers": [{"name": "c"}]})),
                &["spec.template.spec.containers[0].image: Required value"],
            ),
            (
                with("restartPolicy", json!("Never")),
                &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
            ),
            (
                with("activeDeadlineSeconds", json!(5)),
                &[
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
                ],
            ),
            (
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
                &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
            ),
            (
                json!({"strategy": {"type": "BlueGreen"}}),
                &[
                    "spec.strategy: Unsupported value: {\"Type\":\"BlueGreen\",\"RollingUpdate\":null}: supported values: \
                   \"Recreate\", \"RollingUpdate\"",
                ],
            ),
            (
                rolling(json!(0), json!("0%")),
                &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
            ),
            (
                rolling(json!("110%"), json!(1)),
                &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"110%\": must not be greater than 100%"],
            ),
            (
                rolling(json!(1), json!("x")),
                &[
                    "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string must be a numeric string \
                   followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ],
            ),
            (
                json!({"minReadySeconds": 600}),
                &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
            ),
            (
                json!({"revisionHistoryLimit": -1}),
                &["spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0"],
            ),
        ];
        for (changes, expected) in cases {
            assert_eq!(texts(validate(&deployment(changes.clone()))), expected, "{changes}");
        }
    }

    #[test]
    fn the_selector_stays() {
        let old = deployment(json!({}));
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"]["tier"] = json!("a");
        new["spec"]["template"]["metadata"]["labels"]["tier"] = json!("a");
        let strategy = super::super::RESOURCE.strategy;
        assert_eq!(
            texts(strategy.validate_update(&context(""), &new, &old)),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"a\"}}: field is immutable"]
        );
    }

    #[test]
    fn statuses() {
        let old = json!({"status": {"collisionCount": 2}});
        let cases: [(Value, &[&str]); 4] = [
            (
                json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1, "updatedReplicas": 2, "collisionCount": 2}),
                &[],
            ),
            (
                json!({"replicas": 1, "updatedReplicas": 2, "collisionCount": 2}),
                &["status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas"],
            ),
            (
                json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2, "collisionCount": 3}),
                &["status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"],
            ),
            (json!({"collisionCount": 1}), &["status.collisionCount: Invalid value: 1: cannot be decremented"]),
        ];
        for (status, expected) in cases {
            assert_eq!(texts(validate_status(&json!({"status": status}), &old)), expected, "{status}");
        }
    }
}
