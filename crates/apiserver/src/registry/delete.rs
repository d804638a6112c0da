//! Deleting objects: at once, after a grace period, or when finalizers let them go. Collecting dependents is the
//! garbage collector's work, emptying namespaces the namespace controller's.

use api::status::Status;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::metadata::{finalizers, metadata, same, text};
use super::{Answer, RETRIES, Registry, Scene, Stored, exhausted, list, time};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Namespaces that the NamespaceLifecycle admission of upstream keeps.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The body and parameters of a DELETE (meta.k8s.io DeleteOptions).
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
}

/// How a deletion went.
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// It is going: finalizers or a grace period hold it.
    Going(Value),
}

impl DeleteOptions {
    /// Reads a DeleteOptions object; `dryRun` is the caller's.
    pub fn parse(options: &Value) -> Answer<Self> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let orphan = options["orphanDependents"].as_bool();
        let policy = options["propagationPolicy"].as_str();
        if orphan.is_some() && policy.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            return Err(invalid("propagationPolicy", options["propagationPolicy"].clone(), why));
        }
        let propagation = match (policy, orphan) {
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(other), _) => {
                let supported = &["Foreground", "Background", "Orphan", "nil"];
                let path = api::field::Path::new("propagationPolicy");
                let mistake = api::field::Error::not_supported(&path, other, supported);
                return Err(Box::new(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[mistake])));
            }
        };
        Ok(DeleteOptions {
            grace_period: options["gracePeriodSeconds"].as_i64(),
            uid: text(&options["preconditions"]["uid"]),
            resource_version: text(&options["preconditions"]["resourceVersion"]),
            propagation,
        })
    }
}

fn invalid(field: &str, value: Value, why: &str) -> Box<Status> {
    let mistake = api::field::Error::invalid(&api::field::Path::new(field), value, why);
    Box::new(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[mistake]))
}

impl Registry {
    /// DELETE of one object.
    pub async fn delete(&self, scene: &Scene<'_>, name: &str, options: &DeleteOptions) -> Answer<Deleted> {
        let resource = scene.target.resource;
        if resource.group.is_empty() && resource.plural == "namespaces" && IMMORTAL.contains(&name) {
            let why = "this namespace may not be deleted";
            return Err(Box::new(Status::forbidden(scene.subject(), name, why)));
        }
        let key = scene.key(name);
        for _ in 0..RETRIES {
            let Some(old) = self.read(&key).await? else {
                return Err(Box::new(Status::not_found(scene.subject(), name)));
            };
            preconditions(scene, name, options, &old.object)?;
            let (going, held) = marked(scene, options, &old.object);
            if held {
                if same(&going, &old.object) {
                    return Ok(Deleted::Going(old.object));
                }
                if let Some(written) = self.mark(scene, &old, going).await? {
                    return Ok(Deleted::Going(written));
                }
            } else if scene.dry_run || self.remove(scene, &key, &old).await? {
                // The last state of what ends gracefully says that it ends.
                let graceful = scene.resource().strategy.graceful();
                return Ok(Deleted::Gone(if graceful { going } else { old.object }));
            }
        }
        Err(exhausted(scene, "delete"))
    }

    /// DELETE of a collection: every object that is selected; answers them.
    pub async fn delete_collection(
        &self,
        scene: &Scene<'_>,
        selection: &super::ListOptions,
        options: &DeleteOptions,
    ) -> Answer<list::Listed> {
        let listed = self.list(scene.target, selection).await?;
        for object in &listed.items {
            let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
            let name = text(object, "name").to_owned();
            let target = crate::http::route::Target { namespace, name: Some(name.clone()), ..scene.target.clone() };
            let scene = Scene { target: &target, now: scene.now, dry_run: scene.dry_run, warnings: Vec::new() };
            match self.delete(&scene, &name, options).await {
                Ok(_) => {}
                // Somebody else was faster.
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(listed)
    }

    async fn mark(&self, scene: &Scene<'_>, old: &Stored, going: Value) -> Answer<Option<Value>> {
        // A deletion changes nothing that is allocated, so it goes straight to the store.
        let mut going = going;
        if scene.dry_run {
            return Ok(Some(going));
        }
        let key = scene.key(text(&old.object, "name"));
        let mut changes = super::Changes::default();
        changes.compares.push(store::Compare::Modified(key.clone(), old.revision));
        changes.put(key, &going, scene.ttl());
        match self.write(changes.into_txn()).await? {
            super::Written::At(revision) => {
                super::set_revision(&mut going, revision);
                Ok(Some(going))
            }
            super::Written::Raced(_) => Ok(None),
        }
    }
}

fn preconditions(scene: &Scene<'_>, name: &str, options: &DeleteOptions, object: &Value) -> Answer<()> {
    let checks = [("UID", "uid", &options.uid), ("ResourceVersion", "resourceVersion", &options.resource_version)];
    for (title, field, wanted) in checks {
        let found = text(object, field);
        if let Some(wanted) = wanted
            && wanted != found
        {
            let resource = scene.resource();
            let since = if title == "UID" { "deleted and then recreated" } else { "modified" };
            let why = format!(
                "the {title} in the precondition ({wanted}) does not match the {title} in record ({found}). The object might \
                 have been {since}"
            );
            if resource.group.is_empty() && resource.plural == "namespaces" {
                let why =
                    format!("Precondition failed: {title} in precondition: {wanted}, {title} in object meta: {found}");
                return Err(Box::new(Status::conflict(scene.subject(), name, &why)));
            }
            // Upstream names the kind here, not the resource.
            let subject = api::status::GroupResource::new(resource.group, resource.kind);
            return Err(Box::new(Status::conflict(subject, name, &why)));
        }
    }
    Ok(())
}

/// The object as it is while it is going, and whether something holds it.
fn marked(scene: &Scene<'_>, options: &DeleteOptions, object: &Value) -> (Value, bool) {
    let resource = scene.resource();
    let mut going = object.clone();
    set_propagation(&mut going, options.propagation);
    let namespace = resource.group.is_empty() && resource.plural == "namespaces";
    let held =
        !finalizers(&going).is_empty() || (namespace && !api::tree::list(&object["spec"]["finalizers"]).is_empty());
    let grace = resource.strategy.grace_period(object, options.grace_period).max(0);
    let (from, grace) = match deletion(object) {
        // Once going, only an explicit and shorter period changes anything; it counts from the first request.
        Some((end, left)) if options.grace_period.is_some() && grace < left => (minus(end, left), grace),
        Some((end, left)) => (minus(end, left), left),
        None => (scene.now, grace),
    };
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    let already = deletion(object).is_some();
    let metadata = metadata(&mut going);
    let end = from.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(from);
    metadata.insert("deletionTimestamp".to_owned(), time(end).into());
    if !namespace {
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    }
    if generation > 0 && !already {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    if namespace {
        api::tree::child_map(&mut going, "status").insert("phase".to_owned(), "Terminating".into());
    }
    (going, grace != 0 || held)
}

/// When an object that is going will end, and how long that was from the request for it.
fn deletion(object: &Value) -> Option<(Timestamp, i64)> {
    let end = object["metadata"]["deletionTimestamp"].as_str()?.parse().ok()?;
    Some((end, object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0)))
}

fn minus(end: Timestamp, seconds: i64) -> Timestamp {
    end.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(end)
}

/// A propagation policy is a finalizer that the garbage collector takes away when it is done.
fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let keep = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let mut names: Vec<String> = finalizers(object)
        .into_iter()
        .filter(|name| *name != FOREGROUND && *name != ORPHAN)
        .map(str::to_owned)
        .collect();
    names.extend(keep.map(str::to_owned));
    let metadata = metadata(object);
    if names.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), names.into());
    }
}
