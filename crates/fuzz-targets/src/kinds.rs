//! Objects as clients send them, in every encoding, and what is done to them before they are stored.

use std::collections::BTreeSet;

use api::decode::{self, Decoded, Mode};
use api::proto::{self, Envelope};
use api::selector::{FieldSelector, LabelSelector, Operator, Requirement};
use api::{Context, Resource, patch, schema};
use serde_json::{Value, json};

use super::choose;

/// An object of the kind that the first byte chooses, as JSON and as YAML. All modes read the same; what was read is
/// read the same again.
pub fn json(bytes: &[u8]) {
    let Some((resource, text)) = choose(bytes, api::resources()) else { return };
    let Some(definition) = schema::definition(resource.definition) else { return };
    let read = |mode| decode::json(text, definition, mode).map(|decoded| decoded.object).ok();
    let (warned, ignored, strict) = (read(Mode::Warn), read(Mode::Ignore), read(Mode::Strict));
    assert_eq!(warned, ignored, "what is warned of changes the object");
    assert!(strict.is_none() || strict == warned, "what is strict changes the object");
    if let Some(object) = warned {
        exercise(resource, object);
    }
    if let Ok(decoded) = decode::yaml(text, definition, Mode::Warn) {
        exercise(resource, decoded.object);
    }
    let _ = decode::untyped_yaml(text);
    let _ = decode::untyped_json(text);
}

/// An object of the kind that the first byte chooses, as protobuf. What was read can be written, and is then the same.
pub fn protobuf(bytes: &[u8]) {
    let Some((resource, text)) = choose(bytes, api::resources()) else { return };
    let Some(definition) = schema::definition(resource.definition) else { return };
    if let Ok(envelope) = Envelope::read(text) {
        let written = envelope.write();
        assert_eq!(Envelope::read(&written).as_ref(), Ok(&envelope), "an envelope is not what was written");
    }
    let in_envelope = decode::protobuf(text, definition).ok().map(|decoded| decoded.object);
    let bare = proto::decode(text, definition).ok();
    let bare = bare.and_then(|object| decode::value(object, definition, Mode::Warn).ok()).map(|d| d.object);
    for object in [in_envelope, bare].into_iter().flatten() {
        exercise(resource, object);
    }
}

/// A patch of each of the three kinds to an object that has something for it to change.
pub fn patches(bytes: &[u8]) {
    let objects = [
        ("io.k8s.api.core.v1.Service", "", "services"),
        ("io.k8s.api.apps.v1.Deployment", "apps", "deployments"),
        ("io.k8s.api.core.v1.Pod", "", "pods"),
    ];
    let Some(((name, group, plural), text)) = choose(bytes, &objects) else { return };
    let (Some(definition), Some(resource)) = (schema::definition(name), api::kinds::find(group, "v1", plural)) else {
        return;
    };
    let original = original(plural);
    let mut patched: Vec<Value> = patch::json(&original, text).into_iter().collect();
    if let Ok(patch) = serde_json::from_slice::<Value>(text) {
        if let Ok(merged) = patch::merge(&original, &patch) {
            assert_eq!(patch::merge(&merged, &patch).ok().as_ref(), Some(&merged), "merged twice is another object");
            patched.push(merged);
        }
        patched.extend(patch::strategic(&original, &patch, definition));
    }
    let longest = original.to_string().len() + text.len() + patch::MAX_COPIED_BYTES;
    for object in patched {
        // Escapes and numbers may be written longer than they came.
        assert!(object.to_string().len() <= 8 * longest, "a patch makes much of little");
        if let Ok(decoded) = decode::value(object, definition, Mode::Warn) {
            exercise(resource, decoded.object);
        }
    }
}

/// A label selector and a field selector, and whether they pick some object. What was read says the same when written
/// out again.
pub fn selectors(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let labels = json!({"app": "web", "tier": "1", "example.com/owner": ""});
    if let Ok(selector) = LabelSelector::parse(text) {
        let again = LabelSelector::parse(&written(&selector));
        assert_eq!(again.as_ref(), Ok(&selector), "{:?} is read differently", written(&selector));
        let _ = (selector.matches(&labels), selector.matches(&Value::Null));
        // Everything a selector without requirements selects, and nothing that contradicts itself.
        assert!(!selector.is_empty() || selector.matches(&Value::Null), "an empty selector leaves something out");
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let exact = selector.exact("metadata.name").map(str::to_owned);
        let matched = selector.matches(|label| if label == "metadata.name" { "a".to_owned() } else { String::new() });
        assert!(!matched || exact.is_none_or(|name| name == "a"), "it picks what it rules out");
    }
    if let Ok(object) = serde_json::from_slice::<Value>(bytes)
        && let Ok(selector) = LabelSelector::from_object(Some(&object))
    {
        selector.matches(&labels);
    }
}

fn written(selector: &LabelSelector) -> String {
    let one = |requirement: &Requirement| {
        let key = &requirement.key;
        let list = |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match &requirement.operator {
            Operator::In(values) => format!("{key} in ({})", list(values)),
            Operator::NotIn(values) => format!("{key} notin ({})", list(values)),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
            Operator::GreaterThan(bound) => format!("{key}>{bound}"),
            Operator::LessThan(bound) => format!("{key}<{bound}"),
        }
    };
    selector.requirements().iter().map(one).collect::<Vec<_>>().join(",")
}

fn original(plural: &str) -> Value {
    let pod = json!({"containers": [
        {"name": "a", "image": "x", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}],
         "env": [{"name": "A", "value": "1"}]},
        {"name": "b", "image": "y"}], "volumes": [{"name": "v", "emptyDir": {}}]});
    let metadata = json!({"name": "x", "namespace": "default", "labels": {"app": "web"}, "finalizers": ["a/b"]});
    match plural {
        "services" => json!({"metadata": metadata, "spec": {"type": "NodePort", "clusterIP": "10.96.0.7",
            "clusterIPs": ["10.96.0.7"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "http"}, {"name": "b", "port": 81}]}}),
        "deployments" => {
            json!({"metadata": metadata, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod}}})
        }
        _ => {
            json!({"metadata": metadata, "spec": pod, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        }
    }
}

/// Everything a server does with an object between reading and storing it, and to show it.
fn exercise(resource: &Resource, mut object: Value) {
    let now = jiff::Timestamp::UNIX_EPOCH;
    assert_readable(resource, &object, |_| {});
    // Another spelling of a kind is judged as it is stored.
    let served = resource;
    resource.strategy.to_stored(&mut object);
    let resource = resource.strategy.stored().unwrap_or(resource);
    let strategy = resource.strategy;
    let old = object.clone();
    strategy.default(&mut object);
    let mut twice = object.clone();
    strategy.default(&mut twice);
    assert_eq!(object, twice, "defaults of defaults are others");
    // A default may be a null, which isn't read.
    assert_readable(resource, &object, |again| strategy.default(again));
    for subresource in ["", "status", "scale"] {
        let context = Context { now, subresource };
        let mut new = object.clone();
        strategy.prepare_for_create(&context, &mut new);
        let created = new.clone();
        strategy.prepare_for_update(&context, &mut new, &old);
        strategy.validate_update(&context, &new, &old);
        if subresource.is_empty() && strategy.validate(&created).is_empty() {
            // The client that sends what it was given.
            let mut same = created.clone();
            strategy.prepare_for_update(&context, &mut same, &created);
            assert_eq!(same, created, "an update that changes nothing changes something");
            let mistakes = strategy.validate_update(&context, &same, &created);
            assert!(mistakes.is_empty(), "what may be created may not stay: {mistakes:?}");
        }
    }
    strategy.validate(&object);
    strategy.warnings(&object, Some(&old));
    assert_eq!(strategy.cells(&object, now).len(), strategy.columns().len(), "a row with another number of cells");
    strategy.grace_period(&object, None);
    strategy.field_labels().iter().for_each(|label| drop(strategy.field(&object, label)));
    served.strategy.to_served(&mut object);
    assert_readable(served, &object, |again| strategy.default(again));
}

/// Without what protobuf doesn't tell from absence: lists of nothing, and nulls.
fn bare(value: &Value) -> Value {
    let there = |value: &&Value| !value.is_null() && value.as_array().is_none_or(|elements| !elements.is_empty());
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(_, value)| there(value)).map(|(key, value)| (key.clone(), bare(value))).collect()
        }
        Value::Array(elements) => elements.iter().map(bare).collect(),
        scalar => scalar.clone(),
    }
}

/// What we hold can be sent in both encodings, and is read from them as it was.
fn assert_readable(resource: &Resource, object: &Value, finish: impl Fn(&mut Value)) {
    let Some(definition) = schema::definition(resource.definition) else { return };
    let finished = |decoded: Decoded| {
        let mut object = decoded.object;
        finish(&mut object);
        object
    };
    let again = decode::json(object.to_string().as_bytes(), definition, Mode::Strict).map(finished);
    assert_eq!(again.as_ref().ok(), Some(object), "as JSON it is another object: {again:?}");
    let encoded = proto::encode_object(object, definition);
    let again = encoded.map(|bytes| decode::protobuf(&bytes, definition).map(finished));
    assert!(
        matches!(&again, Ok(Ok(read)) if bare(read) == bare(object)),
        "as protobuf it is another object: {again:?}\n{object}"
    );
}
