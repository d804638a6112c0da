//! The difference that `apply` makes: what is wanted, and the removal of what the last apply set and this one doesn't.
//! A strategic merge patch; which lists merge, and by which key, the schema table says.
//!
//! Not responsible for sending it, nor for remembering what was applied.

use api::schema::{Definition, Field, Kind, definition};
use serde_json::{Map, Value, json};

/// `wanted` as a patch that also removes what `last` had besides. Without a definition (a kind the table doesn't know)
/// lists are replaced.
pub fn patch(last: &Value, wanted: &Value, kind: Option<&Definition>) -> Value {
    let mut patch = wanted.clone();
    if let (Value::Object(last), Value::Object(patch)) = (last, &mut patch) {
        object(last, patch, kind);
    }
    patch
}

fn object(last: &Map<String, Value>, patch: &mut Map<String, Value>, kind: Option<&Definition>) {
    for (name, old) in last {
        let field = kind.and_then(|k| k.field(name));
        match (patch.get_mut(name), old) {
            (None, _) => drop(patch.insert(name.clone(), Value::Null)),
            (Some(Value::Object(new)), Value::Object(old)) => object(old, new, field.and_then(|f| message(&f.kind))),
            (Some(Value::Array(new)), Value::Array(old)) => {
                let removed =
                    field.filter(|f| f.patch_strategy.iter().any(|s| s == "merge")).map(|f| list(old, new, f));
                if let Some(removed) = removed.filter(|r| !r.is_empty()) {
                    patch.insert(format!("$deleteFromPrimitiveList/{name}"), removed.into());
                }
            }
            _ => {}
        }
    }
}

/// Marks elements that went, by their merge key; gives the plain values that did.
fn list(old: &[Value], new: &mut Vec<Value>, field: &Field) -> Vec<Value> {
    let Some(key) = &field.patch_merge_key else {
        return old.iter().filter(|value| !new.contains(value)).cloned().collect();
    };
    for element in old {
        let Some(id) = element.get(key) else { continue };
        match new.iter_mut().find(|e| e.get(key) == Some(id)) {
            None => new.push(json!({"$patch": "delete", key: id})),
            Some(Value::Object(kept)) => {
                let Value::Object(element) = element else { continue };
                object(element, kept, element_kind(&field.kind));
            }
            Some(_) => {}
        }
    }
    Vec::new()
}

fn message(kind: &Kind) -> Option<&'static Definition> {
    match kind {
        Kind::Message(name) => definition(name),
        _ => None,
    }
}

fn element_kind(kind: &Kind) -> Option<&'static Definition> {
    match kind {
        Kind::List(element) => message(element),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use api::schema::of_kind;

    use super::*;

    /// The patch, applied as the API server does.
    fn applied(live: Value, last: Value, wanted: Value, group: &str, kind: &str) -> Value {
        let definition = of_kind(group, "v1", kind);
        api::patch::strategic(&live, &patch(&last, &wanted, definition), definition.unwrap()).unwrap()
    }

    #[test]
    fn a_port_that_is_no_longer_named_goes_and_what_others_set_stays() {
        let last =
            json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}], "selector": {"x": "y"}}});
        let wanted = json!({"spec": {"ports": [{"port": 80, "name": "a"}]}});
        let mut live = last.clone();
        live["spec"]["clusterIP"] = "10.96.0.9".into();
        let result = applied(live, last, wanted, "", "Service");
        assert_eq!(result, json!({"spec": {"ports": [{"port": 80, "name": "a"}], "clusterIP": "10.96.0.9"}}));
    }

    #[test]
    fn fields_inside_list_elements_and_plain_values_go_too() {
        let container = |env: Value| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i", "env": env}]}}}});
        let last = container(json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]));
        let wanted = container(json!([{"name": "B", "value": "3"}]));
        assert_eq!(applied(last.clone(), last, wanted.clone(), "apps", "Deployment"), wanted);
        let last = json!({"metadata": {"finalizers": ["x/a", "x/b"]}});
        let wanted = json!({"metadata": {"finalizers": ["x/b"]}});
        assert_eq!(applied(last.clone(), last, wanted.clone(), "", "Service"), wanted);
    }
}
