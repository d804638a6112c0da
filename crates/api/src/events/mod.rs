//! The kinds of `events.k8s.io/v1`: Event, which is stored as core/v1's Event and only spelled differently.

use serde_json::Value;

use crate::core::event as stored;
use crate::decode::{self, Mode};
use crate::field::{self, Path};
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::schema;
use crate::tree::{child_map, map_mut, text, unset};

pub static EVENT: Resource = Resource {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.events.v1.Event",
    strategy: &Event,
};

/// Fields by their name here and as stored.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

struct Event;

impl Strategy for Event {
    fn stored(&self) -> Option<&'static Resource> {
        Some(&stored::RESOURCE)
    }

    fn to_stored(&self, object: &mut Value) {
        rename(object, RENAMED.iter().copied());
        child(object, "v1");
        shape(object, &stored::RESOURCE);
    }

    fn to_served(&self, object: &mut Value) {
        rename(object, RENAMED.iter().map(|(here, there)| (*there, *here)));
        child(object, "events.k8s.io/v1");
        shape(object, &EVENT);
    }

    /// Who writes in the new form says when, why and what is to be seen.
    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let mut errors = stored::RESOURCE.strategy.validate(object);
        if unset(&object["eventTime"]) {
            errors.push(field::Error::required(&Path::new("eventTime"), ""));
        }
        let kind = text(&object["type"]);
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(field::Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
        }
        for (here, there) in
            [("deprecatedFirstTimestamp", "firstTimestamp"), ("deprecatedLastTimestamp", "lastTimestamp")]
        {
            if !unset(&object[there]) {
                errors.push(field::Error::invalid(&Path::new(there), "", format!("needs to be unset: {here}")));
            }
        }
        errors
    }

    /// Of an Event only its series goes on.
    fn validate_update(&self, context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        stored::RESOURCE.strategy.validate_update(context, new, old)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn field_labels(&self) -> &'static [&'static str] {
        stored::RESOURCE.strategy.field_labels()
    }

    fn field(&self, object: &Value, label: &str) -> String {
        stored::RESOURCE.strategy.field(object, label)
    }

    fn columns(&self) -> &'static [Column] {
        stored::RESOURCE.strategy.columns()
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        stored::RESOURCE.strategy.cells(object, now)
    }
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let fields = map_mut(object);
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

/// The two don't agree on which empty fields are there.
fn shape(object: &mut Value, resource: &Resource) {
    let definition = schema::definition(resource.definition);
    let shaped = definition.and_then(|definition| decode::value(object.clone(), definition, Mode::Ignore).ok());
    if let Some(shaped) = shaped {
        *object = shaped.object;
    }
}

fn child(object: &mut Value, api_version: &str) {
    child_map(object, "metadata");
    map_mut(object).insert("apiVersion".to_owned(), api_version.into());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_and_back_is_the_same() {
        let served = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "a.example/c", "reportingInstance": "i",
            "action": "Acting", "reason": "Because", "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
            "note": "what happened", "type": "Normal", "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"},
            "deprecatedSource": {"component": "c"}, "deprecatedCount": 3,
            "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null,
        });
        let mut object = served.clone();
        Event.to_stored(&mut object);
        assert_eq!(
            (&object["apiVersion"], &object["involvedObject"]["name"], &object["message"], &object["count"]),
            (&json!("v1"), &json!("p"), &json!("what happened"), &json!(3))
        );
        assert_eq!(Event.validate(&object), []);
        assert_eq!(Event.field(&object, "involvedObject.name"), "p");
        Event.to_served(&mut object);
        assert_eq!(object, served);
    }

    #[test]
    fn what_is_empty_is_shown_as_each_form_has_it() {
        let served = json!({"apiVersion": "events.k8s.io/v1", "metadata": {}, "eventTime": null, "regarding": {},
            "deprecatedSource": {}, "series": {"count": 0, "lastObservedTime": null}});
        let definition = schema::definition(EVENT.definition).unwrap();
        let served = decode::value(served, definition, Mode::Ignore).unwrap().object;
        let mut object = served.clone();
        Event.to_stored(&mut object);
        assert_eq!((&object["reportingComponent"], &object["reportingInstance"]), (&json!(""), &json!("")));
        assert_eq!(
            (&served["series"], &object["series"]),
            (&json!({"count": 0, "lastObservedTime": null}), &json!({"lastObservedTime": null}))
        );
        Event.to_served(&mut object);
        assert_eq!(object, served);
    }

    #[test]
    fn the_new_form_asks_for_more() {
        let object = json!({"metadata": {"namespace": "default"}, "involvedObject": {"namespace": "default"}});
        let found: Vec<String> = Event.validate(&object).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["eventTime: Required value", "type: Invalid value: \"\": has invalid value: "]);
    }
}
