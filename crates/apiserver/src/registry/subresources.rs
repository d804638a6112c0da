//! Subresources that aren't the object itself: `scale` of whatever has replicas, `binding` of Pods.
//!
//! `status` and `finalize` are updates with another context, `log` is a stream of its own.

use api::field::{self, Path};
use api::labels::selector_text;
use api::status::{GroupResource, Status};
use api::tree;
use serde_json::{Value, json};

use super::metadata::text;
use super::update::Make;
use super::{Answer, Changes, RETRIES, Registry, Scene, exhausted, time};

impl Registry {
    /// GET of `scale`.
    pub async fn scale(&self, scene: &Scene<'_>) -> Answer<Value> {
        Ok(scale_of(&self.get(scene.target, None).await?))
    }

    /// PUT or PATCH of `scale`: `make` turns the Scale found into the one wanted.
    pub async fn rescale(&self, scene: &mut Scene<'_>, make: Make<'_>) -> Answer<Value> {
        let name = scene.name()?.to_owned();
        let parent = crate::http::route::Target { subresource: "", ..scene.target.clone() };
        let mut parent_scene = Scene { target: &parent, now: scene.now, dry_run: scene.dry_run, warnings: Vec::new() };
        let changed = self
            .change(&mut parent_scene, &|object| {
                let (scale, warnings) = make(&scale_of(object))?;
                let replicas = tree::int(&scale["spec"]["replicas"]);
                if replicas < 0 {
                    let path = Path::new("spec").child("replicas");
                    let mistake = field::Error::invalid(&path, replicas, "must be greater than or equal to 0");
                    return Err(Box::new(Status::invalid("autoscaling", "Scale", &name, &[mistake])));
                }
                let mut object = object.clone();
                tree::child_map(&mut object, "spec").insert("replicas".to_owned(), replicas.into());
                let revision = text(&scale, "resourceVersion").to_owned();
                tree::child_map(&mut object, "metadata").insert("resourceVersion".to_owned(), revision.into());
                Ok((object, warnings))
            })
            .await?;
        scene.warnings.extend(parent_scene.warnings);
        Ok(scale_of(&changed))
    }

    /// POST of `pods/binding`: the scheduler's decision.
    pub async fn bind(&self, scene: &Scene<'_>, binding: &Value) -> Answer<()> {
        let name = scene.name()?;
        let subject = GroupResource::new("", "pods/binding");
        let target = &binding["target"];
        let node = tree::text(&target["name"]);
        if !matches!(tree::text(&target["kind"]), "" | "Node") || node.is_empty() {
            let path = Path::new("target").child(if node.is_empty() { "name" } else { "kind" });
            let mistake = if node.is_empty() {
                field::Error::required(&path, "")
            } else {
                field::Error::not_supported(&path, target["kind"].clone(), &["Node", "<empty>"])
            };
            return Err(Box::new(Status::invalid("", "Binding", name, &[mistake])));
        }
        let key = scene.key(name);
        for _ in 0..RETRIES {
            let Some(old) = self.read(&key).await? else {
                return Err(Box::new(Status::not_found(scene.subject(), name)));
            };
            let conflict = |why: &str| Err(Box::new(Status::conflict(subject, name, why)));
            if old.object["metadata"]["deletionTimestamp"].is_string() {
                return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let taken = tree::text(&old.object["spec"]["nodeName"]);
            if !taken.is_empty() {
                return conflict(&format!("pod {name} is already assigned to node {taken:?}"));
            }
            let uid = text(binding, "uid");
            if !uid.is_empty() && uid != text(&old.object, "uid") {
                return conflict(&format!("Precondition failed: UID in precondition: {uid}"));
            }
            let bound = bound(scene, &old.object, binding, node);
            if self.replace(scene, &old, bound, Changes::default()).await?.is_some() {
                return Ok(());
            }
        }
        Err(exhausted(scene, "bind"))
    }
}

fn bound(scene: &Scene<'_>, pod: &Value, binding: &Value, node: &str) -> Value {
    let mut pod = pod.clone();
    tree::child_map(&mut pod, "spec").insert("nodeName".to_owned(), node.into());
    for field in ["labels", "annotations"] {
        let given: Vec<(String, Value)> =
            tree::entries(&binding["metadata"][field]).map(|(k, v)| (k.to_owned(), v.clone())).collect();
        if !given.is_empty() {
            tree::child_map(tree::child_mut(&mut pod, "metadata"), field).extend(given);
        }
    }
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time(scene.now),
    });
    let mut conditions: Vec<Value> = tree::list(&pod["status"]["conditions"])
        .iter()
        .filter(|condition| condition["type"] != "PodScheduled")
        .cloned()
        .collect();
    conditions.push(condition);
    tree::child_map(&mut pod, "status").insert("conditions".to_owned(), conditions.into());
    pod
}

/// The Scale of a Deployment, ReplicaSet or StatefulSet.
fn scale_of(object: &Value) -> Value {
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    let metadata: serde_json::Map<String, Value> =
        kept.iter().filter_map(|field| Some(((*field).to_owned(), object["metadata"].get(*field)?.clone()))).collect();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": tree::int(&object["spec"]["replicas"])},
        "status": {
            "replicas": tree::int(&object["status"]["replicas"]),
            "selector": selector_text(&object["spec"]["selector"]),
        },
    })
}
