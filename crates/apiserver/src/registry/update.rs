//! Changing objects: replacing them, and the loop below every kind of change. Not responsible for patch formats.

use api::field::{self, Path};
use api::status::Status;
use serde_json::Value;
use store::{Compare, Op};

use super::metadata::{carry_over, finalizers, merge_owners, metadata, place, same, text};
use super::{Answer, Changes, RETRIES, Registry, Scene, Stored, Written, exhausted, set_revision};

/// What a change makes of the object it finds, and the warnings about it. Called again when a race was lost.
pub type Make<'m> = &'m (dyn Fn(&Value) -> Answer<(Value, Vec<String>)> + Send + Sync);

impl Registry {
    /// PUT: replaces an object; answers it and whether it is new.
    pub async fn update(&self, scene: &mut Scene<'_>, object: Value) -> Answer<(Value, bool)> {
        let name = scene.name()?.to_owned();
        let mut object = object;
        identify(scene, &mut object)?;
        let merged = merge_owners(&mut object, "");
        scene.warnings.extend(merged);
        let subject = scene.subject();
        let uid = text(&object, "uid").to_owned();
        let same_uid = |found: &str| match uid.is_empty() || uid == found {
            true => Ok(()),
            false => {
                let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
                Err(Box::new(Status::conflict(subject, &name, &why)))
            }
        };
        if self.creates_on_update(scene, &name).await? {
            // Whoever names a uid means an object that was there: it is not to come back under another.
            same_uid("")?;
            metadata(&mut object).remove("resourceVersion");
            return Ok((self.create(scene, object).await?, true));
        }
        let strategy = scene.resource().strategy;
        if text(&object, "resourceVersion").is_empty() && !strategy.allow_unconditional_update() {
            return Err(Box::new(must_be_specified(scene, &name)));
        }
        let updated = self
            .change(scene, &|old| {
                same_uid(text(old, "uid"))?;
                Ok((object.clone(), Vec::new()))
            })
            .await?;
        Ok((updated, false))
    }

    /// PATCH: `make` is the patch.
    pub async fn patch(&self, scene: &mut Scene<'_>, make: Make<'_>) -> Answer<Value> {
        let target = scene.target;
        let bounds = Scene { target, now: scene.now, dry_run: scene.dry_run, warnings: Vec::new() };
        self.change(scene, &|old| {
            let (mut new, warnings) = make(old)?;
            identify(&bounds, &mut new)?;
            Ok((new, warnings))
        })
        .await
    }

    async fn creates_on_update(&self, scene: &Scene<'_>, name: &str) -> Answer<bool> {
        let may = scene.resource().strategy.allow_create_on_update() && scene.target.subresource.is_empty();
        Ok(may && self.read(&scene.key(name)).await?.is_none())
    }

    /// The loop below PUT and PATCH: read, make the new object of it, check, write if nobody was faster.
    pub async fn change(&self, scene: &mut Scene<'_>, make: Make<'_>) -> Answer<Value> {
        let name = scene.name()?.to_owned();
        let key = scene.key(&name);
        let told = scene.warnings.len();
        for _ in 0..RETRIES {
            let Some(old) = self.read(&key).await? else {
                return Err(Box::new(Status::not_found(scene.subject(), &name)));
            };
            let (mut new, warnings) = make(&old.object)?;
            scene.warnings.truncate(told);
            scene.warnings.extend(warnings);
            revision_matches(scene, &name, &new, &old.object)?;
            let mut changes = Changes::default();
            carry_over(&mut new, &old.object);
            scene.warnings.extend(merge_owners(&mut new, " after mutating admission happens"));
            scene.resource().strategy.default(&mut new);
            self.allocator.allocate(self, scene, Some(&old.object), &mut new, &mut changes).await?;
            let warnings = revise(scene, &name, &mut new, &old.object)?;
            if let Some(done) = self.replace(scene, &old, new, changes).await? {
                scene.warnings.extend(warnings);
                return Ok(done);
            }
        }
        Err(exhausted(scene, "update"))
    }

    /// Writes a changed object over the one it was made from; `None` when that is no longer the latest.
    pub(super) async fn replace(
        &self,
        scene: &Scene<'_>,
        old: &Stored,
        mut new: Value,
        mut changes: Changes,
    ) -> Answer<Option<Value>> {
        let key = scene.key(text(&old.object, "name"));
        if released(scene, &new) {
            let removed = scene.dry_run || self.remove(scene, &key, old).await?;
            return Ok(removed.then_some(new));
        }
        changes.compares.insert(0, Compare::Modified(key.clone(), old.revision));
        if scene.dry_run || (same(&new, &old.object) && changes.ops.is_empty()) {
            set_revision(&mut new, old.revision);
            return Ok(Some(new));
        }
        changes.put(key, &new, scene.ttl());
        match self.write(changes.into_txn()).await? {
            Written::At(revision) => {
                set_revision(&mut new, revision);
                Ok(Some(new))
            }
            Written::Raced(_) => Ok(None),
        }
    }

    /// Deletes the key of an object and whatever was allocated to it; false when it has changed meanwhile.
    pub(super) async fn remove(&self, scene: &Scene<'_>, key: &store::Key, old: &Stored) -> Answer<bool> {
        let mut changes = Changes::default();
        changes.compares.push(Compare::Modified(key.clone(), old.revision));
        changes.ops.push(Op::Delete { key: key.clone() });
        self.allocator.release(self, scene, &old.object, &mut changes).await?;
        let removed = matches!(self.write(changes.into_txn()).await?, Written::At(_));
        if removed {
            self.allocator.restore(self, scene, &old.object).await;
        }
        Ok(removed)
    }
}

/// An object that changes has the name and the namespace of its path.
pub(super) fn identify(scene: &Scene<'_>, object: &mut Value) -> Answer<()> {
    place(scene, object)?;
    let (name, given) = (scene.name()?, text(object, "name"));
    if given == name {
        return Ok(());
    }
    Err(Box::new(Status::bad_request(match given {
        "" => format!("the name of the object ({name} based on URL) was undeterminable: name must be provided"),
        given => format!("the name of the object ({given}) does not match the name on the URL ({name})"),
    })))
}

/// The revision in the new object, where given, must be the old one's.
fn revision_matches(scene: &Scene<'_>, name: &str, new: &Value, old: &Value) -> Answer<()> {
    let revision = text(new, "resourceVersion");
    if !revision.is_empty() && revision.parse::<u64>().is_err() {
        let why = format!("strconv.ParseUint: parsing {}: invalid syntax", field::quoted(revision));
        return Err(Box::new(Status::unclassified(why)));
    }
    if !revision.is_empty() && revision != "0" && revision != text(old, "resourceVersion") {
        return Err(Box::new(Status::modified(scene.subject(), name)));
    }
    Ok(())
}

/// Applies the rules of the kind to a changed object; answers warnings.
fn revise(scene: &Scene<'_>, name: &str, new: &mut Value, old: &Value) -> Answer<Vec<String>> {
    let resource = scene.resource();
    resource.strategy.prepare_for_update(&scene.context(), new, old);
    let mut mistakes = api::meta::validate_update(new, old);
    mistakes.extend(resource.strategy.validate_update(&scene.context(), new, old));
    if !mistakes.is_empty() {
        return Err(Box::new(Status::invalid(resource.group, resource.kind, name, &mistakes)));
    }
    Ok(resource.strategy.warnings(new, Some(old)))
}

/// An object that was only waiting for its finalizers ends with the update that empties them.
fn released(scene: &Scene<'_>, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let waited_out = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0;
    // A namespace has finalizers of its own in the spec (core/v1 NamespaceSpec).
    let namespace_held = scene.resource().plural == "namespaces"
        && scene.resource().group.is_empty()
        && !api::tree::list(&object["spec"]["finalizers"]).is_empty();
    metadata["deletionTimestamp"].is_string() && waited_out && finalizers(object).is_empty() && !namespace_held
}

fn must_be_specified(scene: &Scene<'_>, name: &str) -> Status {
    let resource = scene.resource();
    let path = Path::new("metadata").child("resourceVersion");
    let mistake = field::Error::invalid(&path, 0, "must be specified for an update");
    Status::invalid(resource.group, resource.kind, name, &[mistake])
}
