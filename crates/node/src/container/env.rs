//! A container's environment: Services' variables lowest, then `envFrom`, then `env`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod};

use super::expand::expand;
use super::fields::{self, FieldError};
use super::{Facts, Sources, services};
use crate::pod::spec;

/// Why there is no environment; shown as `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{kind} {name:?} not found")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("{kind} {name:?}: the value of {key:?} is not UTF-8")]
    NotText { kind: &'static str, name: String, key: String },
    #[error("env {name:?}: {source}")]
    Field {
        name: String,
        #[source]
        source: FieldError,
    },
    #[error("env {name:?}: valueFrom.{field} is not supported by this node")]
    Unsupported { name: String, field: &'static str },
}

/// The ConfigMaps and Secrets that a container's environment is made from.
pub fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for source in container.env_from.iter().flatten() {
        config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(from.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_key_ref.iter().map(|reference| reference.name.clone()));
    }
    (config_maps, secrets)
}

/// The environment, in order; a name appears once.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &Facts<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let links = spec::spec(pod).enable_service_links.unwrap_or(true);
    let service_variables = services::variables(facts.services, namespace, links);
    let mut own = Ordered::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        for (key, value) in env_from(source, sources)? {
            own.set(format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let text = variable.value.as_deref().unwrap_or("");
                Some(expand(text, |name| own.get(name).or(service_variables.get(name).map(String::as_str))))
            }
            Some(from) => value_from(pod, container, variable, from, sources, facts)?,
        };
        if let Some(value) = value {
            own.set(variable.name.clone(), value);
        }
    }
    let mut all: Vec<(String, String)> =
        service_variables.into_iter().filter(|(name, _)| own.get(name).is_none()).collect();
    all.extend(own.into_pairs());
    Ok(all)
}

fn env_from(
    source: &k8s_openapi::api::core::v1::EnvFromSource,
    sources: &Sources,
) -> Result<BTreeMap<String, String>, EnvError> {
    if let Some(reference) = &source.config_map_ref {
        return match sources.config_maps.get(&reference.name).cloned().flatten() {
            Some(map) => Ok(map.data.unwrap_or_default()),
            None if reference.optional == Some(true) => Ok(BTreeMap::new()),
            None => Err(EnvError::NoObject { kind: "configmap", name: reference.name.clone() }),
        };
    }
    let Some(reference) = &source.secret_ref else { return Ok(BTreeMap::new()) };
    match sources.secrets.get(&reference.name).cloned().flatten() {
        Some(secret) => {
            let data = secret.data.unwrap_or_default().into_iter();
            data.map(|(key, value)| Ok((key.clone(), text("secret", &reference.name, &key, value.0)?))).collect()
        }
        None if reference.optional == Some(true) => Ok(BTreeMap::new()),
        None => Err(EnvError::NoObject { kind: "secret", name: reference.name.clone() }),
    }
}

fn text(kind: &'static str, name: &str, key: &str, bytes: Vec<u8>) -> Result<String, EnvError> {
    String::from_utf8(bytes).map_err(|_| EnvError::NotText { kind, name: name.to_owned(), key: key.to_owned() })
}

/// None leaves the variable out: its source is optional and isn't there.
fn value_from(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    from: &EnvVarSource,
    sources: &Sources,
    facts: &Facts<'_>,
) -> Result<Option<String>, EnvError> {
    let field = |source| EnvError::Field { name: variable.name.clone(), source };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(selector) = &from.field_ref {
        return fields::field(pod, selector, facts).map(Some).map_err(field);
    }
    if let Some(selector) = &from.resource_field_ref {
        return fields::resource(pod, Some(container), selector, facts).map(Some).map_err(field);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let map = sources.config_maps.get(&reference.name).and_then(Option::as_ref);
        let Some(map) = map else { return absent("configmap", &reference.name, optional) };
        let value = map.data.as_ref().and_then(|data| data.get(&reference.key));
        return found("configmap", namespace, &reference.name, &reference.key, value.cloned(), optional);
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let secret = sources.secrets.get(&reference.name).and_then(Option::as_ref);
        let Some(secret) = secret else { return absent("secret", &reference.name, optional) };
        let value = secret.data.as_ref().and_then(|data| data.get(&reference.key));
        let value = value.map(|value| text("secret", &reference.name, &reference.key, value.0.clone())).transpose()?;
        return found("secret", namespace, &reference.name, &reference.key, value, optional);
    }
    let field = if from.file_key_ref.is_some() { "fileKeyRef" } else { "(unknown)" };
    Err(EnvError::Unsupported { name: variable.name.clone(), field })
}

fn absent(kind: &'static str, name: &str, optional: bool) -> Result<Option<String>, EnvError> {
    if optional { Ok(None) } else { Err(EnvError::NoObject { kind, name: name.to_owned() }) }
}

fn found(
    kind: &'static str,
    namespace: String,
    name: &str,
    key: &str,
    value: Option<String>,
    optional: bool,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(value) => Ok(Some(value)),
        None if optional => Ok(None),
        None => Err(EnvError::NoKey { kind, namespace, name: name.to_owned(), key: key.to_owned() }),
    }
}

/// Variables in the order they were first set.
#[derive(Default)]
struct Ordered {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Ordered {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn into_pairs(mut self) -> Vec<(String, String)> {
        let order = std::mem::take(&mut self.order);
        order.into_iter().filter_map(|name| self.values.remove(&name).map(|value| (name, value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
    use serde_json::json;
    use std::sync::Arc;

    fn sources() -> Sources {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "from-map", "color": "blue"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"pass": "aHVudGVyMg==", "raw": "/w=="}})).unwrap();
        Sources {
            config_maps: [("map".to_owned(), Some(map)), ("gone".to_owned(), None)].into(),
            secrets: [("secret".to_owned(), Some(secret))].into(),
        }
    }

    fn services() -> Vec<Arc<Service>> {
        let service = json!({"metadata": {"namespace": "default", "name": "db"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 5432}]}});
        vec![Arc::new(serde_json::from_value(service).unwrap())]
    }

    fn run(container: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
        let pod = crate::pod::spec::testing::pod(json!({"containers": [container]}));
        let services = services();
        let facts = Facts {
            node_name: "n1",
            node_ips: &[],
            pod_ips: &[],
            services: &services,
            node_cpu_millis: 1000,
            node_memory_bytes: 1,
        };
        environment(&pod, &spec::spec(&pod).containers[0], &sources(), &facts)
    }

    fn value(env: &[(String, String)], name: &str) -> Option<String> {
        let found: Vec<_> = env.iter().filter(|(known, _)| known == name).collect();
        assert!(found.len() <= 1, "{name} appears once");
        found.first().map(|(_, value)| value.clone())
    }

    #[test]
    fn precedence_and_expansion() {
        let env = run(json!({"name": "m",
        "envFrom": [{"configMapRef": {"name": "map"}}, {"prefix": "P_", "configMapRef": {"name": "map"}},
                    {"configMapRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "color", "value": "red"},
            {"name": "DB_SERVICE_HOST", "value": "mine"},
            {"name": "URL", "value": "tcp://$(DB_SERVICE_HOST):$(DB_SERVICE_PORT)/$(color)/$(later)/$$(a)"},
            {"name": "later", "value": "x"},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "pass"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}},
        ]}))
        .unwrap();
        assert_eq!(value(&env, "a").unwrap(), "from-map");
        assert_eq!(value(&env, "P_a").unwrap(), "from-map");
        assert_eq!(value(&env, "color").unwrap(), "red");
        assert_eq!(value(&env, "DB_SERVICE_HOST").unwrap(), "mine");
        assert_eq!(value(&env, "DB_PORT").unwrap(), "tcp://10.96.0.9:5432");
        assert_eq!(value(&env, "URL").unwrap(), "tcp://mine:5432/red/$(later)/$(a)");
        assert_eq!(value(&env, "PASS").unwrap(), "hunter2");
        assert_eq!(value(&env, "NODE").unwrap(), "n1");
        assert_eq!(value(&env, "NONE"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let from = |from: serde_json::Value| run(json!({"name": "m", "env": [{"name": "X", "valueFrom": from}]}));
        let error = from(json!({"configMapKeyRef": {"name": "gone", "key": "k"}})).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"gone\" not found");
        let error = from(json!({"configMapKeyRef": {"name": "map", "key": "k"}})).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find key k in configmap default/map");
        let error = from(json!({"secretKeyRef": {"name": "secret", "key": "raw"}})).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
        let error = from(json!({"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}})).unwrap_err();
        assert!(error.to_string().contains("fileKeyRef"), "{error}");
        let error = run(json!({"name": "m", "envFrom": [{"secretRef": {"name": "nope"}}]})).unwrap_err();
        assert_eq!(error.to_string(), "secret \"nope\" not found");
    }
}
