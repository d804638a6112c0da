//! Creating objects. Not responsible for decoding them.

use api::status::Status;
use serde_json::Value;
use store::Compare;

use super::metadata::{generated_name, merge_owners, metadata, place, stamp, text};
use super::{Answer, Changes, RETRIES, Registry, Scene, Written, exhausted, set_revision};

/// How many generated names are tried before giving up (KEP-4420).
const NAMES: usize = 8;

impl Registry {
    /// Stores a new object and answers it as stored.
    pub async fn create(&self, scene: &mut Scene<'_>, mut object: Value) -> Answer<Value> {
        place(scene, &mut object)?;
        // What is no number is none, as upstream reads it.
        let set = text(&object, "resourceVersion").parse::<u64>().is_ok_and(|revision| revision != 0);
        if set {
            return Err(Box::new(Status::unclassified("resourceVersion should not be set on objects to be created")));
        }
        let base = text(&object, "generateName").to_owned();
        let given = text(&object, "name").to_owned();
        let tries = if given.is_empty() && !base.is_empty() { NAMES } else { 1 };
        for _ in 0..tries {
            let mut candidate = object.clone();
            if given.is_empty() && !base.is_empty() {
                metadata(&mut candidate).insert("name".to_owned(), generated_name(&base).into());
            }
            let name = text(&candidate, "name").to_owned();
            match self.insert(scene, candidate).await? {
                Some(created) => return Ok(created),
                None if tries == 1 => return Err(Box::new(Status::already_exists(scene.subject(), &name))),
                None => {}
            }
        }
        Err(Box::new(Status::already_exists(scene.subject(), &base)))
    }

    /// `None` when the name is taken.
    async fn insert(&self, scene: &mut Scene<'_>, mut object: Value) -> Answer<Option<Value>> {
        stamp(scene, &mut object);
        let merged = merge_owners(&mut object, "");
        scene.warnings.extend(merged);
        scene.resource().strategy.default(&mut object);
        let name = text(&object, "name").to_owned();
        let key = scene.key(&name);
        for _ in 0..RETRIES {
            let mut object = object.clone();
            let mut changes = Changes::default();
            // Before the object itself is judged: in a namespace that isn't there nothing is valid.
            self.admit_to_namespace(scene, &name, &mut changes).await?;
            self.admit_account(scene, &name, &object).await?;
            if let Some(why) = scene.resource().strategy.forbidden(&object) {
                return Err(Box::new(Status::forbidden(scene.subject(), &name, &why)));
            }
            self.allocator.allocate(self, scene, None, &mut object, &mut changes).await?;
            let warnings = prepare(scene, &mut object)?;
            if self.read(&key).await?.is_some() {
                return Ok(None);
            }
            if scene.dry_run {
                scene.warnings.extend(warnings);
                return Ok(Some(object));
            }
            // First, so that a taken name is told before a lost race for an address.
            changes.compares.insert(0, Compare::Absent(key.clone()));
            changes.put(key.clone(), &object, scene.ttl());
            match self.write(changes.into_txn()).await? {
                Written::At(revision) => {
                    set_revision(&mut object, revision);
                    scene.warnings.extend(warnings);
                    return Ok(Some(object));
                }
                Written::Raced(raced) if raced == key => return Ok(None),
                Written::Raced(_) => {}
            }
        }
        Err(exhausted(scene, "create"))
    }
}

/// Applies the rules of the kind to a new object; answers warnings.
fn prepare(scene: &Scene<'_>, object: &mut Value) -> Answer<Vec<String>> {
    let resource = scene.resource();
    resource.strategy.prepare_for_create(&scene.context(), object);
    let rule = |name: &str, prefix: bool| resource.strategy.validate_name(name, prefix);
    let mut mistakes = api::meta::validate(object, resource.scope, &rule);
    mistakes.extend(resource.strategy.validate(object));
    if !mistakes.is_empty() {
        return Err(Box::new(Status::invalid(resource.group, resource.kind, text(object, "name"), &mistakes)));
    }
    Ok(resource.strategy.warnings(object, None))
}
