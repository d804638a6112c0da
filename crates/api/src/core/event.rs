//! Event (core/v1): what happened to an object. Expiry is the store's work, aggregation the sender's.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::table::{NAME, or, since};
use crate::tree::{absent, int, text, unset};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.core.v1.Event",
    strategy: &Event,
};

struct Event;

impl Strategy for Event {
    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let mut errors =
            if unset(&object["eventTime"]) { validate_old_form(object) } else { validate_new_form(object) };
        let namespace = text(&object["metadata"]["namespace"]);
        let path = Path::new("namespace");
        let mistakes = names::dns_subdomain(namespace, false);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, namespace, what)));
        errors
    }

    fn validate_update(&self, _context: &Context, new: &Value, _old: &Value) -> Vec<field::Error> {
        self.validate(new)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn field(&self, object: &Value, label: &str) -> String {
        let value = match label.strip_prefix("involvedObject.") {
            Some(name) => text(&object["involvedObject"][name]),
            None if label == "source" => or(text(&object["source"]["component"]), text(&object["reportingComponent"])),
            None => text(&object[label]),
        };
        value.to_owned()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::text("Last Seen", "Time since it was last seen."),
            Column::text("Type", "Normal or Warning."),
            Column::text("Reason", "Why it happened, in one word."),
            Column::text("Object", "What it is about."),
            Column::text("Subobject", "The part of the object it is about.").wide(),
            Column::text("Source", "Who reported it.").wide(),
            Column::text("Message", "What happened, for people."),
            Column::text("First Seen", "Time since it was first seen.").wide(),
            Column::text("Count", "How often it was seen.").wide(),
            NAME.wide(),
        ];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let first = if unset(&object["firstTimestamp"]) { &object["eventTime"] } else { &object["firstTimestamp"] };
        let (last, count) = match &object["series"] {
            series if !absent(series) => (&series["lastObservedTime"], int(&series["count"])),
            // Events in the new form leave the count out when there was one.
            _ if unset(&object["lastTimestamp"]) => (first, int(&object["count"]).max(1)),
            _ => (&object["lastTimestamp"], int(&object["count"]).max(1)),
        };
        let involved = &object["involvedObject"];
        let kind = text(&involved["kind"]).to_lowercase();
        let target = match text(&involved["name"]) {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            since(last, now).into(),
            text(&object["type"]).into(),
            text(&object["reason"]).into(),
            target.into(),
            text(&involved["fieldPath"]).into(),
            source(object).into(),
            text(&object["message"]).trim().into(),
            since(first, now).into(),
            count.into(),
            object["metadata"]["name"].clone(),
        ]
    }
}

fn source(object: &Value) -> String {
    let component = or(text(&object["source"]["component"]), text(&object["reportingComponent"]));
    match or(text(&object["source"]["host"]), text(&object["reportingInstance"])) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}

/// Events without `eventTime`: only the namespaces must agree.
fn validate_old_form(object: &Value) -> Vec<field::Error> {
    let namespace = text(&object["metadata"]["namespace"]);
    let involved = text(&object["involvedObject"]["namespace"]);
    let agree = if involved.is_empty() { matches!(namespace, "" | "default") } else { namespace == involved };
    if agree { Vec::new() } else { vec![namespaces_differ(involved)] }
}

fn validate_new_form(object: &Value) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let namespace = text(&object["metadata"]["namespace"]);
    if text(&object["involvedObject"]["namespace"]).is_empty() && !matches!(namespace, "default" | "kube-system") {
        errors.push(namespaces_differ(""));
    }
    let controller = text(&object["reportingComponent"]);
    let path = Path::new("reportingComponent");
    if controller.is_empty() {
        errors.push(field::Error::required(&path, ""));
    }
    errors.extend(
        names::qualified_name(controller).into_iter().map(|what| field::Error::invalid(&path, controller, what)),
    );
    for (name, max, required) in
        [("reportingInstance", 128, true), ("action", 128, true), ("reason", 128, true), ("message", 1024, false)]
    {
        let value = text(&object[name]);
        if required && value.is_empty() {
            errors.push(field::Error::required(&Path::new(name), ""));
        }
        if value.len() > max {
            errors.push(field::Error::invalid(&Path::new(name), "", format!("can have at most {max} characters")));
        }
    }
    errors
}

fn namespaces_differ(involved: &str) -> field::Error {
    let path = Path::new("involvedObject").child("namespace");
    field::Error::invalid(&path, involved, "does not match event.namespace")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_agree_and_new_events_say_who_reports() {
        let long = "x".repeat(1025);
        let cases: [(Value, &[&str]); 5] = [
            (json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}}), &[]),
            (json!({"metadata": {"namespace": "default"}, "involvedObject": {}}), &[]),
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}}),
                &["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"],
            ),
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {}}),
                &["involvedObject.namespace: Invalid value: \"\": does not match event.namespace"],
            ),
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "eventTime": "2026-01-01T00:00:00.000000Z",
                       "reportingComponent": "example.com/x", "message": long}),
                &[
                    "reportingInstance: Required value",
                    "action: Required value",
                    "reason: Required value",
                    "message: Invalid value: \"\": can have at most 1024 characters",
                ],
            ),
        ];
        for (object, expected) in cases {
            let found: Vec<String> = Event.validate(&object).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn rows_and_labels_read_both_forms() {
        let now: jiff::Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
        let old = json!({
            "metadata": {"name": "e"}, "type": "Warning", "reason": "Failed", "message": " oh\n", "count": 3,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:09:00Z",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec"}, "source": {"component": "c", "host": "h"},
        });
        let expected = json!(["60s", "Warning", "Failed", "pod/p", "spec", "c, h", "oh", "10m", 3, "e"]);
        assert_eq!(Value::Array(Event.cells(&old, now)), expected);
        let new = json!({
            "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:05:00.000000Z", "reportingComponent": "c",
            "series": {"count": 7, "lastObservedTime": "2026-01-01T00:09:30.000000Z"}, "involvedObject": {"kind": "Node"},
        });
        let expected = json!(["30s", "", "", "node", "", "c", "", "5m", 7, "e"]);
        assert_eq!(Value::Array(Event.cells(&new, now)), expected);
        assert_eq!(Event.field(&new, "source"), "c");
        assert_eq!(Event.field(&old, "involvedObject.name"), "p");
        assert_eq!(Event.field(&old, "reason"), "Failed");
    }
}
