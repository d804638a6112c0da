//! Who owns what: controller references, adoption and release. Not responsible for deleting what nobody owns
//! (`garbage`).

/// The reference by which one object controls another.
pub use endpointslice::labels::controller_of as reference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

/// The reference to the object's controller, if it has one.
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.as_ref()?.iter().find(|reference| reference.controller == Some(true))
}

/// The controller's name, if it is of this kind.
pub fn controller_name<'a>(metadata: &'a ObjectMeta, kind: &str) -> Option<&'a str> {
    controller(metadata).filter(|reference| reference.kind == kind).map(|reference| reference.name.as_str())
}

pub fn is_controlled_by(metadata: &ObjectMeta, uid: &str) -> bool {
    controller(metadata).is_some_and(|reference| reference.uid == uid)
}

/// The merge patch that makes `owner` the controller of an object. The uid is a precondition.
pub fn adoption(metadata: &ObjectMeta, owner: OwnerReference) -> Value {
    let mut references = metadata.owner_references.clone().unwrap_or_default();
    references.push(owner);
    json!({ "metadata": { "uid": metadata.uid, "resourceVersion": metadata.resource_version, "ownerReferences": references } })
}

/// The merge patch that takes the reference to the owner with this uid off an object.
pub fn release(metadata: &ObjectMeta, uid: &str) -> Value {
    let mut references = metadata.owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != uid);
    json!({ "metadata": { "uid": metadata.uid, "resourceVersion": metadata.resource_version, "ownerReferences": references } })
}

/// What a controller should do about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is its own, and matches.
    Own,
    /// Nobody's, matching: take it.
    Adopt,
    /// Its own but no longer matching: let it go.
    Release,
    /// Not its business.
    Leave,
}

/// Upstream's rules of adoption: never what is being deleted, nor when the owner itself is.
pub fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    let owner_leaves = owner.deletion_timestamp.is_some();
    let object_leaves = object.deletion_timestamp.is_some();
    match controller(object) {
        Some(reference) if Some(&reference.uid) == owner.uid.as_ref() => match matches {
            true => Claim::Own,
            false if owner_leaves => Claim::Leave,
            false => Claim::Release,
        },
        None if matches && !owner_leaves && !object_leaves => Claim::Adopt,
        _ => Claim::Leave,
    }
}
