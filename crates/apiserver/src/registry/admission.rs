//! What is checked about a write beyond its own object: the namespace it goes into, the account a pod runs as.

use api::status::{Cause, Status};
use api::tree;
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

    /// A Pod's ServiceAccount must be there (upstream's ServiceAccount admission). Only `default` may come later: a
    /// controller makes it soon after the namespace, which nobody should have to wait for.
    pub(super) async fn admit_account(&self, scene: &Scene<'_>, name: &str, object: &Value) -> Answer<()> {
        let resource = scene.resource();
        let (Some(namespace), Some(accounts)) = (&scene.target.namespace, self.kinds.core("serviceaccounts")) else {
            return Ok(());
        };
        if !resource.group.is_empty() || resource.plural != "pods" {
            return Ok(());
        }
        // The second is the field's name before v1.
        let fields = ["serviceAccountName", "serviceAccount"].map(|field| tree::text(&object["spec"][field]));
        let account = fields.into_iter().find(|account| !account.is_empty()).unwrap_or("default");
        if account == "default" || self.read(&kinds::key(accounts, Some(namespace), account)).await?.is_some() {
            return Ok(());
        }
        let account_text = api::field::quoted(account);
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount {account_text} not found");
        Err(Box::new(Status::forbidden(scene.subject(), name, &why)))
    }
}

fn ending(namespace: &Value) -> bool {
    namespace["metadata"]["deletionTimestamp"].is_string() || namespace["status"]["phase"] == "Terminating"
}
