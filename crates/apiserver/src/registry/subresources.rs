//! Subresources that aren't the object itself: `scale` of whatever has replicas, `binding` of Pods.
//!
//! `status` and `finalize` are updates with another context, `log` is a stream of its own.

use api::core::pod::binding::{self, BindingError};
use api::scale;
use api::status::{GroupResource, Status};
use api::tree;
use serde_json::Value;

use super::metadata::text;
use super::update::{Make, identify};
use super::{Answer, Changes, RETRIES, Registry, Scene, exhausted};

impl Registry {
    /// GET of `scale`.
    pub async fn scale(&self, scene: &Scene<'_>) -> Answer<Value> {
        Ok(scale::from_object(&self.get(scene.target, None).await?))
    }

    /// PUT or PATCH of `scale`: `make` turns the Scale found into the one wanted.
    pub async fn rescale(&self, scene: &mut Scene<'_>, make: Make<'_>) -> Answer<Value> {
        let name = scene.name()?.to_owned();
        let parent = crate::http::route::Target { subresource: "", ..scene.target.clone() };
        let mut parent_scene = Scene { target: &parent, now: scene.now, dry_run: scene.dry_run, warnings: Vec::new() };
        let bounds = Scene { target: &parent, now: scene.now, dry_run: scene.dry_run, warnings: Vec::new() };
        let changed = self
            .change(&mut parent_scene, &|object| {
                let (mut wanted, warnings) = make(&scale::from_object(object))?;
                identify(&bounds, &mut wanted)?;
                let mistakes = scale::validate(&wanted);
                if !mistakes.is_empty() {
                    return Err(Box::new(Status::invalid("autoscaling", "Scale", &name, &mistakes)));
                }
                let mut object = object.clone();
                scale::apply(&mut object, &wanted);
                let revision = text(&wanted, "resourceVersion").to_owned();
                tree::child_map(&mut object, "metadata").insert("resourceVersion".to_owned(), revision.into());
                Ok((object, warnings))
            })
            .await?;
        scene.warnings.extend(parent_scene.warnings);
        Ok(scale::from_object(&changed))
    }

    /// POST of `pods/binding`: the scheduler's decision.
    pub async fn bind(&self, scene: &Scene<'_>, binding: &Value) -> Answer<()> {
        let name = scene.name()?;
        let subject = GroupResource::new("", "pods/binding");
        let key = scene.key(name);
        for _ in 0..RETRIES {
            let Some(old) = self.read(&key).await? else {
                return Err(Box::new(Status::not_found(scene.subject(), name)));
            };
            let uid = text(binding, "uid");
            if !uid.is_empty() && uid != text(&old.object, "uid") {
                let why = format!("Precondition failed: UID in precondition: {uid}");
                return Err(Box::new(Status::conflict(subject, name, &why)));
            }
            let mut bound = old.object.clone();
            binding::apply(&mut bound, binding, scene.now).map_err(|error| {
                Box::new(match error {
                    BindingError::Invalid(mistakes) => Status::invalid("", "Binding", name, &mistakes),
                    refused => Status::conflict(subject, name, &refused.to_string()),
                })
            })?;
            if self.replace(scene, &old, bound, Changes::default()).await?.is_some() {
                return Ok(());
            }
        }
        Err(exhausted(scene, "bind"))
    }
}
