//! Gives every namespace its `default` ServiceAccount and the ConfigMap that pods verify the API server with. Not
//! responsible for tokens: the API server issues those.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use runtime::{Key, Next, Objects, Reconcile, WriteError};

use crate::Config;
use crate::cluster::{Cluster, ROOT_CA};

const DESCRIPTION: &str = "kubernetes.io/description";
const PURPOSE: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                       such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                       distributions of Kubernetes clusters.";

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue::<Key>();
    let marks = queue.clone();
    cluster.namespaces.cache().on_change(move |change| {
        if let Some(namespace) = &change.new {
            marks.add(Key::of(&namespace.metadata));
        }
    });
    let marks = queue.clone();
    cluster.service_accounts.cache().on_change(move |change| {
        if let (Some(account), None) = (&change.old, &change.new) {
            marks.add(Key::cluster(account.metadata.namespace.clone().unwrap_or_default()));
        }
    });
    let marks = queue.clone();
    cluster.root_cas.cache().on_change(move |change| {
        if let Some(map) = change.latest() {
            marks.add(Key::cluster(map.metadata.namespace.clone().unwrap_or_default()));
        }
    });
    let accounts = Accounts {
        namespaces: cluster.namespaces.clone(),
        service_accounts: cluster.service_accounts.clone(),
        root_cas: cluster.root_cas.clone(),
        config: cluster.config.clone(),
    };
    cluster.drive("service-account", accounts, queue, 4);
}

/// What a namespace lacks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub account: Option<ServiceAccount>,
    pub create_ca: Option<ConfigMap>,
    pub update_ca: Option<ConfigMap>,
}

/// Plans for one namespace. Without a bundle to publish, the ConfigMap is left alone.
pub fn plan(namespace: &Namespace, account: Option<&ServiceAccount>, map: Option<&ConfigMap>, ca: &str) -> Plan {
    let mut plan = Plan::default();
    if namespace.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let named = |name: &str| ObjectMeta {
        namespace: namespace.metadata.name.clone(),
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    };
    if account.is_none() {
        plan.account = Some(ServiceAccount { metadata: named("default"), ..ServiceAccount::default() });
    }
    let data = Some(BTreeMap::from([("ca.crt".to_owned(), ca.to_owned())]));
    match map {
        _ if ca.is_empty() => {}
        None => {
            let annotations = Some(BTreeMap::from([(DESCRIPTION.to_owned(), PURPOSE.to_owned())]));
            let metadata = ObjectMeta { annotations, ..named(ROOT_CA) };
            plan.create_ca = Some(ConfigMap { metadata, data, ..ConfigMap::default() });
        }
        Some(map) if map.data != data => plan.update_ca = Some(ConfigMap { data, ..map.clone() }),
        Some(_) => {}
    }
    plan
}

struct Accounts {
    namespaces: Objects<Namespace>,
    service_accounts: Objects<ServiceAccount>,
    root_cas: Objects<ConfigMap>,
    config: Arc<Config>,
}

impl Reconcile for Accounts {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let Some(namespace) = self.namespaces.cache().get(key) else { return Ok(Next::Wait) };
        let account = self.service_accounts.cache().get(&Key::new(&key.name, "default"));
        let map = self.root_cas.cache().get(&Key::new(&key.name, ROOT_CA));
        let plan = plan(&namespace, account.as_deref(), map.as_deref(), &self.config.root_ca);
        if let Some(account) = &plan.account {
            ignore_lost_races(self.service_accounts.create(account).await.map(drop))?;
        }
        if let Some(map) = &plan.create_ca {
            ignore_lost_races(self.root_cas.create(map).await.map(drop))?;
        }
        if let Some(map) = &plan.update_ca {
            self.root_cas.replace(map).await?;
        }
        Ok(Next::Wait)
    }
}

/// Somebody else made it first, or nothing can be made here any more: both are as good as done.
fn ignore_lost_races(written: Result<(), WriteError>) -> Result<(), WriteError> {
    match written {
        Err(error) if error.is_already_exists() || error.namespace_terminating() => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fills_a_new_namespace_and_then_has_nothing_to_do() {
        let mut namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
        let first = plan(&namespace, None, None, "PEM");
        let (account, map) = (first.account.unwrap(), first.create_ca.unwrap());
        assert_eq!(Key::of(&account.metadata), Key::new("shop", "default"));
        assert_eq!(map.data.as_ref().unwrap()["ca.crt"], "PEM");
        assert_eq!(plan(&namespace, Some(&account), Some(&map), "PEM"), Plan::default());
        assert!(plan(&namespace, Some(&account), Some(&map), "NEW").update_ca.is_some());
        assert_eq!(plan(&namespace, Some(&account), None, ""), Plan::default());
        namespace.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(plan(&namespace, None, None, "PEM"), Plan::default());
    }
}
