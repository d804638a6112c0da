//! Request bodies into objects: JSON, YAML and protobuf, checked against the schema table. Not responsible for defaults,
//! validation, or choosing the format.
//!
//! What comes out has the shape that Go's typed structs give it: unknown fields and nulls are gone, zero values that
//! `omitempty` hides are gone, structs that aren't pointers are there, times and quantities are in canonical form.

use std::collections::HashMap;

use serde_json::Value;

use crate::proto::{self, ProtoError};
use crate::schema::Definition;

mod shape;
mod tree;

/// More unknown or duplicate fields than this aren't counted.
const MAX_PROBLEMS: usize = 100;

/// Longer paths are cut where they are reported: a client chooses its keys' length.
const MAX_PATH: usize = 1024;

/// What to do about unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    Ignore,
    /// Report them in `Decoded::problems`.
    #[default]
    Warn,
    /// Refuse the body: `DecodeError::Strict`.
    Strict,
}

/// An object, and what was dropped from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub object: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.ports[0].port"`: warnings in `Mode::Warn`.
    pub problems: Vec<String>,
}

/// Why a body isn't an object of the kind. `Status::cannot_handle` wraps it.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("invalid JSON: {0}")]
    Json(#[source] serde_json::Error),
    #[error("error converting YAML to JSON: {0}")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// A value of the wrong JSON type, in Go's words.
    #[error("json: cannot unmarshal {found} into {target} of type {expected}")]
    Type {
        found: String,
        target: String,
        expected: String,
        /// Whether what was expected is a struct.
        structure: bool,
    },
    /// A scalar with a text form of its own that doesn't parse (time, quantity, base64).
    #[error("{0}")]
    Scalar(String),
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    #[error(transparent)]
    Proto(#[from] ProtoError),
}

impl DecodeError {
    /// What upstream says when the value came from a strategic merge patch: it converts those without JSON in between.
    pub fn of_conversion(&self) -> String {
        let DecodeError::Type { found, expected, structure, .. } = self else { return self.to_string() };
        let from = match found.as_str() {
            "array" => "slice",
            "object" => "map",
            "number" => "int64",
            number if number.starts_with("number ") => {
                if number.contains('.') {
                    "float64"
                } else {
                    "int64"
                }
            }
            other => other,
        };
        let number = matches!(from, "int64" | "float64");
        match expected.as_str() {
            _ if *structure => format!("cannot restore struct from: {from}"),
            list if list.starts_with("[]") => format!("cannot restore slice from {from}"),
            map if map.starts_with("map[") => format!("cannot restore map from {from}"),
            kind @ ("int32" | "int64") if number => format!("cannot convert {from} to {kind}"),
            kind @ ("int32" | "int64" | "bool") => format!("unrecognized type: {kind}"),
            text if from == "int64" => format!("cannot convert int64 to {text}"),
            _ => "unrecognized type: string".to_owned(),
        }
    }
}

/// A JSON body.
pub fn json(bytes: &[u8], definition: &'static Definition, mode: Mode) -> Result<Decoded, DecodeError> {
    if mode == Mode::Ignore {
        return value(serde_json::from_slice(bytes).map_err(DecodeError::Json)?, definition, mode);
    }
    from_tree(&|| serde_json::from_slice(bytes).map_err(DecodeError::Json), definition, mode)
}

/// A YAML body: one document.
pub fn yaml(bytes: &[u8], definition: &'static Definition, mode: Mode) -> Result<Decoded, DecodeError> {
    from_tree(&|| tree::from_yaml(bytes), definition, mode)
}

/// YAML (or JSON, its subset) without a schema.
pub fn untyped_yaml(bytes: &[u8]) -> Result<Value, DecodeError> {
    Ok(tree::from_yaml(bytes)?.into_value().0)
}

/// JSON without a schema, where the last of equal keys wins, and the paths of those that came more than once.
pub fn untyped_json(bytes: &[u8]) -> Result<(Value, Vec<String>), DecodeError> {
    Ok(serde_json::from_slice::<tree::Tree>(bytes).map_err(DecodeError::Json)?.into_value())
}

/// A protobuf body: the `k8s\0` envelope and a message of the definition. Unknown numbers are skipped, as upstream does.
pub fn protobuf(bytes: &[u8], definition: &'static Definition) -> Result<Decoded, DecodeError> {
    let envelope = proto::Envelope::read(bytes)?;
    let mut object = proto::decode(envelope.raw, definition)?;
    for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() {
            object[key] = text.into();
        }
    }
    value(object, definition, Mode::Ignore)
}

/// An object that is a value already: the result of a patch.
pub fn value(mut object: Value, definition: &'static Definition, mode: Mode) -> Result<Decoded, DecodeError> {
    let unknown = shape::conform(&mut object, definition)?;
    finish(object, unknown.iter().map(|path| unknown_field(path)).collect(), mode)
}

/// Parses, and parses once more in the rare case that several problems must be put in the order of the text.
fn from_tree(
    parse: &dyn Fn() -> Result<tree::Tree, DecodeError>,
    definition: &'static Definition,
    mode: Mode,
) -> Result<Decoded, DecodeError> {
    let (mut object, duplicates) = parse()?.into_value();
    let unknown = shape::conform(&mut object, definition)?;
    let mut problems: Vec<(usize, String)> = Vec::with_capacity(duplicates.len() + unknown.len());
    let places = if duplicates.len() + unknown.len() > 1 { parse()?.places() } else { HashMap::new() };
    let place = |path: &String, nth: usize| places.get(path).and_then(|at| at.get(nth)).copied().unwrap_or_default();
    // A duplicate is met at its second occurrence.
    problems.extend(duplicates.iter().map(|path| (place(path, 1), format!("duplicate field {path:?}"))));
    problems.extend(unknown.iter().map(|path| (place(path, 0), unknown_field(path))));
    problems.sort_by_key(|(at, _)| *at);
    finish(object, problems.into_iter().map(|(_, problem)| problem).take(MAX_PROBLEMS).collect(), mode)
}

/// A path as problems name it.
fn cut(path: &str) -> String {
    if path.len() <= MAX_PATH {
        return path.to_owned();
    }
    format!("{}…", &path[..path.floor_char_boundary(MAX_PATH)])
}

fn unknown_field(path: &str) -> String {
    format!("unknown field {path:?}")
}

fn finish(object: Value, problems: Vec<String>, mode: Mode) -> Result<Decoded, DecodeError> {
    match mode {
        Mode::Ignore => Ok(Decoded { object, problems: Vec::new() }),
        Mode::Strict if !problems.is_empty() => Err(DecodeError::Strict(problems)),
        Mode::Warn | Mode::Strict => Ok(Decoded { object, problems }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::definition;

    const SERVICE: &str = "io.k8s.api.core.v1.Service";

    fn decode(text: &str, mode: Mode) -> Result<Decoded, DecodeError> {
        json(text.as_bytes(), definition(SERVICE).unwrap(), mode)
    }

    fn error(text: &str) -> String {
        decode(text, Mode::Warn).unwrap_err().to_string()
    }

    /// Go's `omitempty` hides no struct, and times are structs; `omitzero` hides them.
    #[test]
    fn what_go_always_writes_is_there_as_null() {
        let shaped = |name: &str, object: Value| value(object, definition(name).unwrap(), Mode::Ignore).unwrap().object;
        let pod = json!({"metadata": {}, "spec": {"volumes": [{"name": "a", "projected": {}}]},
                         "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let pod = shaped("io.k8s.api.core.v1.Pod", pod);
        let condition = json!({"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null});
        assert_eq!(pod["status"]["conditions"][0], condition);
        assert_eq!(pod["spec"]["volumes"][0]["projected"], json!({"sources": null}));
        assert_eq!((&pod["spec"]["containers"], &pod["metadata"]), (&json!(null), &json!({})));
        let event = shaped("io.k8s.api.events.v1.Event", json!({}));
        for time in ["eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
            assert!(event.get(time).is_some_and(Value::is_null), "{time}: {event}");
        }
    }

    #[test]
    fn unknown_and_duplicate_fields_are_named_by_path() {
        let text =
            r#"{"kind":"Service","spec":{"foo":1,"ports":[{"port":80,"port":81,"x":null}]},"metadata":{"name":"a"}}"#;
        let decoded = decode(text, Mode::Warn).unwrap();
        assert_eq!(
            decoded.problems,
            [
                r#"unknown field "spec.foo""#,
                r#"duplicate field "spec.ports[0].port""#,
                r#"unknown field "spec.ports[0].x""#
            ]
        );
        assert_eq!(decoded.object["spec"]["ports"], json!([{"port": 81, "targetPort": 0}]));
        assert_eq!(decoded.object["spec"].get("foo"), None);
        assert_eq!(
            decode(text, Mode::Strict).unwrap_err().to_string(),
            "strict decoding error: unknown field \"spec.foo\", duplicate field \"spec.ports[0].port\", unknown field \
             \"spec.ports[0].x\""
        );
        assert!(decode(text, Mode::Ignore).unwrap().problems.is_empty());
    }

    #[test]
    fn wrong_types_are_told_in_gos_words() {
        let ports = error(r#"{"spec":{"ports":"x"}}"#);
        assert_eq!(
            ports,
            "json: cannot unmarshal string into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort"
        );
        let port = error(r#"{"spec":{"ports":[{"port":"80"}]}}"#);
        assert_eq!(
            port,
            "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32"
        );
        let big = error(r#"{"spec":{"ports":[{"port":70000000000}]}}"#);
        assert!(big.starts_with("json: cannot unmarshal number 70000000000 into"), "{big}");
        let label = error(r#"{"metadata":{"labels":{"a":1}}}"#);
        assert_eq!(
            label,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
        );
        assert_eq!(error("[]"), "json: cannot unmarshal array into Go value of type v1.Service");
        let protocol = error(r#"{"spec":{"ports":[{"protocol":true}]}}"#);
        assert!(protocol.ends_with("of type v1.Protocol"), "{protocol}");
    }

    #[test]
    fn the_shape_is_that_of_typed_structs() {
        let text = r#"{"metadata":{"name":"a","labels":null,"annotations":{},"creationTimestamp":null},
                       "spec":{"type":"","ports":[{"name":"","targetPort":8080}],"clusterIPs":[],
                       "allocateLoadBalancerNodePorts":false}}"#;
        let decoded = decode(text, Mode::Strict).unwrap();
        assert_eq!(
            decoded.object,
            json!({"metadata": {"name": "a"},
                   "spec": {"ports": [{"port": 0, "targetPort": 8080}], "allocateLoadBalancerNodePorts": false},
                   "status": {"loadBalancer": {}}})
        );
    }

    #[test]
    fn quantities_times_and_bytes_become_canonical() {
        let pod = definition("io.k8s.api.core.v1.Pod").unwrap();
        let text = r#"{"metadata":{"creationTimestamp":"2026-01-01T02:00:00+02:00"},"spec":{"containers":[
                       {"name":"c","resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}}}]}}"#;
        let object = json(text.as_bytes(), pod, Mode::Strict).unwrap().object;
        assert_eq!(object["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
        let secret = definition("io.k8s.api.core.v1.Secret").unwrap();
        let mistake = json(br#"{"data":{"a":"%%"}}"#, secret, Mode::Warn).unwrap_err();
        assert_eq!(mistake.to_string(), "illegal base64 data at input byte 0");
        let mistake = json(br#"{"data":{"a":"Zm9vb"}}"#, secret, Mode::Warn).unwrap_err();
        assert_eq!(mistake.to_string(), "illegal base64 data at input byte 4");
    }

    #[test]
    fn yaml_is_read_by_the_same_rules() {
        let text = "kind: Service\nmetadata: {name: a}\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    targetPort: http\n  bad: yes\n";
        let decoded = yaml(text.as_bytes(), definition(SERVICE).unwrap(), Mode::Warn).unwrap();
        assert_eq!(decoded.object["spec"]["ports"], json!([{"port": 80, "targetPort": "http"}]));
        assert_eq!(decoded.problems, [r#"unknown field "spec.bad""#]);
    }

    #[test]
    fn yaml_is_the_old_one_that_kubernetes_reads() {
        let read = untyped_yaml(b"a: 0644\nb: yes\nc: 'yes'\nd: 0o17\ne: ~\nf: 1.5\ng: 0x1f\nh: 2026-01-01\n").unwrap();
        assert_eq!(
            read,
            json!({"a": 420, "b": true, "c": "yes", "d": 15, "e": null, "f": 1.5, "g": 31, "h": "2026-01-01"})
        );
        assert!(untyped_yaml(b"a: b: c").is_err());
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
            + &(1..12)
                .map(|i| {
                    format!("b{i}: &b{i} [*a,*a,*a,*a,*a,*a,*a,*a]\n")
                        .replace("*a", &if i == 1 { "*a".to_owned() } else { format!("*b{}", i - 1) })
                })
                .collect::<String>();
        assert!(untyped_yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn hostile_bodies_cost_little() {
        let many: String = (0..200_000).map(|i| format!("\"k{}\":1,", i % 100_000)).collect();
        let decoded = decode(&format!("{{{many}\"kind\":\"Service\"}}"), Mode::Warn).unwrap();
        assert_eq!(decoded.problems.len(), MAX_PROBLEMS);
        let long = "k".repeat(1_000_000);
        let inner: String = (0..100_000).map(|i| format!("\"{i}\":1,\"{}\":1,", i % 90_000)).collect();
        let decoded = decode(&format!("{{\"{long}\":{{{inner}\"x\":1}},\"u\":1}}"), Mode::Warn).unwrap();
        assert!(decoded.problems.iter().all(|p| p.len() < 2 * MAX_PATH));
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!("{{\"metadata\":{deep}}}");
        assert!(matches!(decode(&body, Mode::Warn), Err(DecodeError::Json(_))));
        assert!(matches!(decode(&body, Mode::Ignore), Err(DecodeError::Json(_))));
        assert!(matches!(yaml(body.as_bytes(), definition(SERVICE).unwrap(), Mode::Warn), Err(DecodeError::Yaml(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let service = definition(SERVICE).unwrap();
            let _ = json(&bytes, service, Mode::Warn);
            let _ = yaml(&bytes, service, Mode::Warn);
            let _ = protobuf(&bytes, service);
        }
    }
}
