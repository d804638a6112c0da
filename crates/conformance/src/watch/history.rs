//! The stage: two namespaces, and seeded writes of several kinds of objects to them, the same on every server.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http::Request;
use serde_json::{Value, json};

use super::Server;
use super::record::Record;
use super::stream::{End, exchange, get};
use crate::dice::Dice;

/// A kind whose objects are written.
#[derive(Clone, Copy)]
pub struct Kind {
    pub prefix: &'static str,
    pub api_version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

pub const CONFIG_MAPS: Kind = kind("/api/v1", "v1", "ConfigMap", "configmaps");
pub const PODS: Kind = kind("/api/v1", "v1", "Pod", "pods");
const SERVICES: Kind = kind("/api/v1", "v1", "Service", "services");
const SLICES: Kind = kind("/apis/discovery.k8s.io/v1", "discovery.k8s.io/v1", "EndpointSlice", "endpointslices");
const DEPLOYMENTS: Kind = kind("/apis/apps/v1", "apps/v1", "Deployment", "deployments");
pub const KINDS: &[Kind] = &[CONFIG_MAPS, PODS, SERVICES, SLICES, DEPLOYMENTS];

/// How many objects of a kind come and go in each namespace.
const OBJECTS: usize = 4;
const PHASES: &[&str] = &["Pending", "Running", "Failed"];
const TIERS: &[&str] = &["front", "back", ""];

const fn kind(prefix: &'static str, api_version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { prefix, api_version, kind, plural }
}

impl Kind {
    pub fn everywhere(&self) -> String {
        format!("{}/{}", self.prefix, self.plural)
    }

    pub fn within(&self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.prefix, self.plural)
    }

    /// A new object; `number` makes its content.
    pub fn object(&self, name: &str, tier: &str, number: usize) -> Value {
        let mut object = self.content(number);
        object["apiVersion"] = self.api_version.into();
        object["kind"] = self.kind.into();
        object["metadata"]["name"] = name.into();
        object["metadata"]["labels"]["app"] = "x".into();
        if !tier.is_empty() {
            object["metadata"]["labels"]["tier"] = tier.into();
        }
        let pod = json!({"containers": [{"name": "main", "image": "image"}]});
        match self.kind {
            "Pod" => {
                object["spec"] = pod;
                if number.is_multiple_of(2) {
                    object["spec"]["nodeName"] = "n1".into();
                }
            }
            "Deployment" => {
                object["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
                object["spec"]["template"] = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod});
            }
            "EndpointSlice" => object["addressType"] = "IPv4".into(),
            _ => {}
        }
        object
    }

    /// A merge patch of what may change.
    fn content(&self, number: usize) -> Value {
        match self.kind {
            "ConfigMap" => json!({"data": {"number": number.to_string()}}),
            "Service" => json!({"spec": {"ports": [{"port": 80 + number}], "clusterIP": "None"}}),
            "EndpointSlice" => {
                json!({"endpoints": [{"addresses": [format!("10.1.0.{}", 1 + number % 200)]}], "ports": []})
            }
            "Deployment" => json!({"spec": {"replicas": number}}),
            _ => json!({"metadata": {"annotations": {"number": number.to_string()}, "labels": {"app": "x"}}}),
        }
    }

    fn status(&self, number: usize) -> Option<Value> {
        match self.kind {
            "Pod" => Some(json!({"status": {"phase": PHASES[number % PHASES.len()]}})),
            "Service" => Some(json!({"status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{number}")}]}}})),
            "Deployment" => Some(json!({"status": {"observedGeneration": 1, "replicas": number}})),
            _ => None,
        }
    }
}

/// Two namespaces of one server, and the point that a history has reached.
pub struct Stage {
    pub server: Server,
    pub namespaces: [String; 2],
    dice: Dice,
    written: usize,
    /// The server's revision at each mark, by plural.
    marks: Vec<BTreeMap<&'static str, String>>,
}

impl Stage {
    /// Makes the namespaces with an object of each kind. The first mark is before those objects.
    pub async fn set(server: &Server, seed: u64) -> Result<Stage> {
        let namespaces = ["a", "b"].map(|letter| format!("watched-{seed}-{letter}"));
        let (dice, server) = (Dice::new(seed), server.clone());
        let mut stage = Stage { server, namespaces, dice, written: 0, marks: Vec::new() };
        for namespace in &stage.namespaces {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            let (code, answer) = stage.send("POST", "/api/v1/namespaces", &object).await?;
            ensure!(code == 201, "{}: {answer}", stage.server.name);
        }
        stage.mark().await?;
        for namespace in &stage.namespaces {
            for kind in KINDS {
                for name in ["base", "gone"] {
                    let (code, answer) =
                        stage.send("POST", &kind.within(namespace), &kind.object(name, "front", 1)).await?;
                    ensure!(code == 201, "{}: {answer}", stage.server.name);
                }
            }
        }
        Ok(stage)
    }

    /// Notes where the server is; a cache is as new as that from then on.
    pub async fn mark(&mut self) -> Result<()> {
        let mut mark = BTreeMap::new();
        for kind in KINDS {
            let (code, list) = get(&self.server.client, &kind.everywhere(), "application/json").await?;
            ensure!(code == 200, "{}: {list}", self.server.name);
            mark.insert(kind.plural, list["metadata"]["resourceVersion"].as_str().context("a revision")?.to_owned());
        }
        self.marks.push(mark);
        Ok(())
    }

    /// The revision of a mark, the first being 0.
    pub fn revision(&self, kind: &Kind, mark: usize) -> &str {
        self.marks.get(mark).and_then(|mark| mark.get(kind.plural)).map_or("", String::as_str)
    }

    pub fn end(&self, namespace: usize, name: &str) -> End {
        End { namespace: self.namespaces[namespace].clone(), name: name.to_owned() }
    }

    /// Random writes, one after the other; their codes are noted.
    pub async fn act(&mut self, steps: usize, record: &mut Record) -> Result<()> {
        for _ in 0..steps {
            self.written += 1;
            let kind = *self.dice.pick(KINDS);
            let namespace = self.namespaces[usize::from(self.dice.chance(25))].clone();
            let name = format!("o{}", self.dice.below(OBJECTS));
            let (collection, chance) = (kind.within(&namespace), self.dice.below(100));
            let (path, number) = (format!("{collection}/{name}"), self.written % 90);
            let tier = *self.dice.pick(TIERS);
            let label = if tier.is_empty() { Value::Null } else { tier.into() };
            let (method, path, body) = match chance {
                0..35 => ("POST", collection, kind.object(&name, tier, number)),
                35..50 => ("PATCH", path, kind.content(number)),
                50..65 => ("PATCH", path, json!({"metadata": {"labels": {"tier": label}}})),
                65..78 => match kind.status(number) {
                    Some(status) => ("PATCH", format!("{path}/status"), status),
                    None => ("PATCH", path, kind.content(number)),
                },
                78..82 => ("PATCH", path, json!({"metadata": {"labels": {"app": "x"}}})),
                82..85 => ("PATCH", path, json!({"metadata": {"finalizers": ["example.com/held"]}})),
                85..88 => ("PATCH", path, json!({"metadata": {"finalizers": null}})),
                88..90 => ("DELETE", format!("{collection}?labelSelector=tier%3Dback"), json!({})),
                90..93 => ("DELETE", path, json!({"gracePeriodSeconds": 0})),
                _ => ("DELETE", path, json!({})),
            };
            let (code, answer) = self.send(method, &path, &body).await?;
            let told = if code < 300 { json!(null) } else { answer["message"].clone() };
            let path = path.replace(&namespace, "NS");
            record.note("the writes", json!([self.written, method, path, code, told]));
        }
        Ok(())
    }

    /// The last writes: what clients wait for.
    pub async fn finish(&mut self, record: &mut Record) -> Result<()> {
        for namespace in self.namespaces.clone() {
            for kind in KINDS {
                let collection = kind.within(&namespace);
                let ended = json!({"metadata": {"annotations": {"end": "yes"}}});
                let mut writes = vec![
                    ("DELETE", format!("{collection}/gone"), json!({})),
                    ("PATCH", format!("{collection}/base"), ended),
                ];
                for (name, tier) in [("zz-front", "front"), ("zz-none", "")] {
                    let mut object = kind.object(name, tier, 2);
                    object["metadata"]["annotations"] = json!({"end": "yes"});
                    writes.push(("POST", collection.clone(), object));
                    if kind.kind == "Pod" {
                        let status = json!({"status": {"phase": "Running", "conditions": [
                            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                        writes.push(("PATCH", format!("{collection}/{name}/status"), status));
                    }
                }
                for (method, path, body) in writes {
                    let (code, _) = self.send(method, &path, &body).await?;
                    record.note("the last writes", json!([method, path.replace(&namespace, "NS"), code]));
                }
            }
        }
        Ok(())
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let request = request.body(kube::client::Body::from(body.to_string().into_bytes()))?;
        let answered = exchange(&self.server.client, request).await;
        let (code, bytes) = answered.with_context(|| format!("{}: {method} {path}", self.server.name))?;
        Ok((code, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}
