//! Protobuf as the API speaks it: the `k8s\0` envelope, and messages read and written by the schema table.
//! Not responsible for the shape of what is read (`decode` conforms it) nor for content negotiation.
//!
//! JSON and protobuf differ in a few places: times, quantities, int-or-string and raw values are messages, maps are lists of
//! entries, and Go's inlined structs are sub-messages.

use serde_json::Value;

use crate::schema::Definition;

mod read;
mod wire;
mod write;

/// What every protobuf body starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// How deep messages may nest: far more than any kind needs.
const MAX_DEPTH: usize = 64;

/// Why bytes aren't a message of the definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoEnvelope,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal wireType {wire} for field {field}")]
    WireType { field: u32, wire: u8 },
    #[error("proto: field {0} is not valid UTF-8")]
    NotText(String),
    #[error("proto: field {field}: {reason}")]
    Value { field: String, reason: String },
    #[error("proto: messages nest deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("unsupported content encoding {0:?}")]
    Encoding(String),
}

/// `runtime.Unknown`: the type and bytes of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
    /// Empty for protobuf.
    pub content_type: String,
}

impl<'a> Envelope<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, ProtoError> {
        read::envelope(bytes.strip_prefix(MAGIC).ok_or(ProtoError::NoEnvelope)?)
    }

    pub fn write(&self) -> Vec<u8> {
        write::envelope(self)
    }
}

/// A message as JSON. Unknown numbers are skipped.
pub fn decode(bytes: &[u8], definition: &Definition) -> Result<Value, ProtoError> {
    read::message(bytes, definition)
}

/// A JSON object as a message. Fields that the definition doesn't have, `kind` and `apiVersion` are left out.
pub fn encode(object: &Value, definition: &Definition) -> Result<Vec<u8>, ProtoError> {
    write::message(object, definition)
}

/// An object with its `k8s\0` envelope, as a response body.
pub fn encode_object(object: &Value, definition: &Definition) -> Result<Vec<u8>, ProtoError> {
    let raw = encode(object, definition)?;
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let envelope =
        Envelope { api_version: text("apiVersion"), kind: text("kind"), raw: &raw, content_type: String::new() };
    Ok(envelope.write())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode;
    use crate::schema::definition;

    fn round_trip(name: &str, object: &Value) {
        let definition = definition(name).unwrap();
        let bytes = encode_object(object, definition).unwrap();
        assert_eq!(&bytes[..4], MAGIC);
        let shaped = decode::value(object.clone(), definition, decode::Mode::Strict).unwrap();
        assert_eq!(decode::protobuf(&bytes, definition).unwrap().object, shaped.object);
    }

    /// Made with protoc's text format in mind: metadata{name "a"}, spec{ports{port 80, targetPort{type 1 strVal "http"}}}.
    #[test]
    fn reads_bytes_as_go_writes_them() {
        let port = [0x0a, 0x00, 0x12, 0x03, b'T', b'C', b'P', 0x18, 80, 0x22, 0x0a];
        let target = [0x08, 1, 0x10, 0, 0x1a, 4, b'h', b't', b't', b'p'];
        let mut spec = vec![0x0a, (port.len() + target.len()) as u8];
        spec.extend(port);
        spec.extend(target);
        let mut raw = vec![0x0a, 3, 0x0a, 1, b'a', 0x12, spec.len() as u8];
        raw.extend(spec);
        let envelope =
            Envelope { api_version: "v1".into(), kind: "Service".into(), raw: &raw, content_type: String::new() };
        let service = definition("io.k8s.api.core.v1.Service").unwrap();
        let object = decode::protobuf(&envelope.write(), service).unwrap().object;
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
                   "spec": {"ports": [{"protocol": "TCP", "port": 80, "targetPort": "http"}]},
                   "status": {"loadBalancer": {}}})
        );
    }

    #[test]
    fn objects_of_every_shape_go_there_and_back() {
        round_trip(
            "io.k8s.api.core.v1.Pod",
            &json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2026-01-01T00:00:00Z",
                    "deletionGracePeriodSeconds": 0, "managedFields": [{"manager": "m", "fieldsV1": {"f:x": {}}}]},
                "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}},
                        "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 5},
                        "readinessProbe": {"tcpSocket": {"port": -1}},
                        "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}]}],
                    "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "s", "secret": {"secretName": "x"}}],
                    "securityContext": {"runAsUser": -5, "supplementalGroups": [1, 2, 3], "runAsNonRoot": false}},
                "status": {"phase": "Running", "startTime": "1969-12-31T23:59:59Z"}}),
        );
        round_trip(
            "io.k8s.api.core.v1.Secret",
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"a": "AAEC", "b": ""}, "immutable": true}),
        );
        round_trip(
            "io.k8s.api.authentication.v1.SelfSubjectReview",
            &json!({"metadata": {}, "status": {"userInfo": {"username": "u", "groups": ["g"], "extra": {"k": ["a", "b"]}}}}),
        );
        round_trip(
            "io.k8s.api.coordination.v1.Lease",
            &json!({"metadata": {}, "spec": {"renewTime": "2026-01-01T00:00:00.123456Z", "leaseDurationSeconds": 40}}),
        );
        round_trip(
            "io.k8s.api.networking.v1.Ingress",
            &json!({"metadata": {}, "spec": {"rules": [{"host": "h", "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}, "status": {"loadBalancer": {}}}),
        );
    }

    #[test]
    fn deep_nesting_is_refused() {
        // JSONSchemaProps-like recursion doesn't exist in the table, so the bound is checked on the reader itself.
        assert_eq!(read::nested(MAX_DEPTH + 1).unwrap_err(), ProtoError::TooDeep);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            for name in ["io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.Event", "io.k8s.api.core.v1.Secret"] {
                let _ = decode(&bytes, definition(name).unwrap());
            }
            let _ = Envelope::read(&bytes);
        }

        #[test]
        fn broken_messages_never_panic(at in 0_usize..400, byte in proptest::prelude::any::<u8>()) {
            let pod = definition("io.k8s.api.core.v1.Pod").unwrap();
            let object = json!({"metadata": {"name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}],
                         "volumes": [{"name": "v", "emptyDir": {}}]}});
            let mut bytes = encode(&object, pod).unwrap();
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = decode(&bytes, pod);
            let _ = decode(&bytes[..at % length], pod);
        }
    }
}
