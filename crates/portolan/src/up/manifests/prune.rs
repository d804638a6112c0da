//! Deleting what was applied from some files and is in them no more. Whose an object is, its mark says: what kubectl or
//! a controller made is never touched, nor what came from other files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Preconditions, PropagationPolicy};
use kube::discovery::{Scope, verbs};
use kube::{Client, ResourceExt};

use super::apply::discover;
use super::mark::{self, Mark};

/// Deletes, and says in a line each what was deleted or left. `kept` are the identities of what the files hold.
pub async fn prune(client: &Client, paths: &[PathBuf], kept: &BTreeSet<String>) -> Result<Vec<String>> {
    let places: Vec<PathBuf> = paths.iter().map(|path| mark::place(path)).collect();
    let mut told = Vec::new();
    let discovery = discover(client).await?;
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
        let listed = [verbs::LIST, verbs::DELETE].iter().all(|verb| capabilities.supports_operation(verb));
        // Nobody applies Events, and there are many.
        if !listed || resource.kind == "Event" {
            continue;
        }
        let all = Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await;
        for object in all.with_context(|| format!("cannot list {}", resource.plural))? {
            let namespace = object.namespace().unwrap_or_default();
            let identity = mark::identity(&resource.group, &resource.kind, &namespace, &object.name_any());
            let Some(mark) = Mark::of(object.metadata.annotations.as_ref()).filter(|m| m.object == identity) else {
                continue;
            };
            let going = object.metadata.deletion_timestamp.is_some();
            if going || kept.contains(&identity) || !places.iter().any(|place| holds(place, &mark.file)) {
                continue;
            }
            if resource.kind == "Namespace" && resource.group.is_empty() {
                told.push(format!(
                    "{identity} is in the files no more; it is left, since others may have put objects into it: \
                     `kubectl delete namespace {}` deletes it with all of them",
                    object.name_any()
                ));
                continue;
            }
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Cluster => Api::all_with(client.clone(), &resource),
                Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
            };
            match api.delete(&object.name_any(), &this_one(&object)).await {
                Ok(_) => told.push(format!("{identity} deleted: it is in {} no more", mark.file.display())),
                // It went by itself, or another one has its name now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot delete {identity}")),
            }
        }
    }
    Ok(told)
}

/// Whether a file or directory that was named stands for the file. Directories below one aren't read.
fn holds(place: &Path, file: &Path) -> bool {
    place == file || file.parent() == Some(place)
}

/// This object, and no other that gets its name meanwhile.
fn this_one(object: &DynamicObject) -> DeleteParams {
    DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
        ..DeleteParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_its_own_files_only() {
        let holds = |place: &str, file: &str| holds(Path::new(place), Path::new(file));
        assert!(holds("/a", "/a/b.yaml") && holds("/a/b.yaml", "/a/b.yaml") && holds("-", "-"));
        assert!(!holds("/a", "/a/b/c.yaml") && !holds("/a/b.yaml", "/a/c.yaml") && !holds("/a", "-"));
    }
}
