//! What is checked about a write beyond its own object: the namespace it goes into.

use api::status::{Cause, Status};
use serde_json::Value;
use store::Compare;

use super::{Answer, Changes, Registry, Scene};
use crate::kinds;

impl Registry {
    /// A namespaced object can only be created in a namespace that exists and isn't ending. The namespace is compared
    /// in the object's own transaction, so none can slip in behind a deletion.
    pub(super) async fn admit_to_namespace(&self, scene: &Scene<'_>, name: &str, changes: &mut Changes) -> Answer<()> {
        let (Some(namespace), Some(resource)) = (&scene.target.namespace, self.kinds.core("namespaces")) else {
            return Ok(());
        };
        if !scene.resource().namespaced() {
            return Ok(());
        }
        let key = kinds::key(resource, None, namespace);
        let Some(found) = self.read(&key).await? else {
            return Err(Box::new(Status::not_found(resource.into(), namespace)));
        };
        if ending(&found.object) {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let cause = Cause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".to_owned(),
            };
            return Err(Box::new(Status::forbidden(scene.subject(), name, &why).with_cause(cause)));
        }
        changes.compares.push(Compare::Modified(key.into(), found.revision));
        Ok(())
    }
}

fn ending(namespace: &Value) -> bool {
    namespace["metadata"]["deletionTimestamp"].is_string() || namespace["status"]["phase"] == "Terminating"
}
