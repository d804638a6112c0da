//! What `up -f` leaves on an object: kubectl's own note of what was applied, so that either can go on where the other
//! stopped, and one that says which file the object came from, so that pruning knows its own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::files::STDIN;

/// Where kubectl's client-side `apply` remembers what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// An annotation: a label would go on to a Service's EndpointSlices.
const APPLIED: &str = "portolan.local/applied";

/// Which object came from which file. It names the object because copies (a ReplicaSet has its Deployment's
/// annotations) are somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub object: String,
    pub file: PathBuf,
}

impl Mark {
    /// What the object's annotation says.
    pub fn of(annotations: Option<&std::collections::BTreeMap<String, String>>) -> Option<Self> {
        serde_json::from_str(annotations?.get(APPLIED)?).ok()
    }
}

/// An object's name among all: `Deployment.apps default/web`.
pub fn identity(group: &str, kind: &str, namespace: &str, name: &str) -> String {
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let namespace = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    format!("{kind}{group} {namespace}{name}")
}

/// The object as it's sent. `namespace` is where it goes, also when it doesn't say so itself.
pub fn marked(object: &Value, namespace: Option<&str>, mark: &Mark) -> Value {
    let mut marked = object.clone();
    if let Some(namespace) = namespace {
        marked["metadata"]["namespace"] = namespace.into();
    }
    if !marked["metadata"]["annotations"].is_object() {
        marked["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = marked["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
        annotations.remove(APPLIED);
    }
    let last_applied = as_kubectl_writes(&marked);
    let annotations = &mut marked["metadata"]["annotations"];
    annotations[LAST_APPLIED] = last_applied.into();
    annotations[APPLIED] = json!(mark).to_string().into();
    marked
}

/// Go's `json.Encoder`: sorted keys, three characters escaped for HTML's sake and two for JavaScript's, a line feed at
/// the end. Written differently, `kubectl apply` of the same file would have something to change.
fn as_kubectl_writes(object: &Value) -> String {
    let mut text = object.to_string();
    for (character, escaped) in
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")]
    {
        if text.contains(character) {
            text = text.replace(character, escaped);
        }
    }
    text.push('\n');
    text
}

/// A file or directory by a path that means the same from everywhere.
pub fn place(path: &Path) -> PathBuf {
    if path.as_os_str() == STDIN {
        return path.to_owned();
    }
    if path.is_dir() {
        return path.canonicalize().unwrap_or_else(|_| path.to_owned());
    }
    // A link stays the link that it is: what it points at may be another file tomorrow.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_kubectls_to_the_byte() {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"a": "<&>"}});
        let mark = Mark { object: identity("", "ConfigMap", "default", "c"), file: "/a/b.yaml".into() };
        let marked = marked(&object, Some("default"), &mark);
        let annotations: std::collections::BTreeMap<String, String> =
            serde_json::from_value(marked["metadata"]["annotations"].clone()).unwrap();
        let kubectls = "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"\\u003c\\u0026\\u003e\"},\"kind\":\"ConfigMap\",\"metadata\":\
            {\"annotations\":{},\"name\":\"c\",\"namespace\":\"default\"}}\n";
        assert_eq!(annotations[LAST_APPLIED], kubectls);
        assert_eq!(Mark::of(Some(&annotations)), Some(mark));
    }
}
