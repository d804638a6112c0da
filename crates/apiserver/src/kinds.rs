//! The kinds this server serves, by group, version and plural, and where their objects are stored.

use std::collections::BTreeMap;

use api::Resource;

/// An index of all kinds.
pub struct Kinds {
    all: Vec<&'static Resource>,
    by_path: BTreeMap<(&'static str, &'static str, &'static str), &'static Resource>,
}

impl Kinds {
    pub fn new(resources: impl IntoIterator<Item = &'static Resource>) -> Self {
        let all: Vec<&'static Resource> = resources.into_iter().collect();
        let by_path = all.iter().map(|r| ((r.group, r.version, r.plural), *r)).collect();
        Kinds { all, by_path }
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
        self.by_path.get(&(group, version, plural)).copied()
    }

    /// A kind this server itself needs.
    pub fn core(&self, plural: &str) -> Option<&'static Resource> {
        self.find("", "v1", plural)
    }

    /// Group-versions in the order they are first registered, the core group first.
    pub fn group_versions(&self) -> Vec<(&'static str, &'static str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for resource in &self.all {
            if !found.contains(&(resource.group, resource.version)) {
                found.push((resource.group, resource.version));
            }
        }
        found.sort_by_key(|(group, _)| !group.is_empty());
        found
    }

    pub fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
        self.all.iter().copied().filter(move |r| r.group == group && r.version == version)
    }
}

/// `/registry/services/` or `/registry/apps/deployments/`: what every key of a kind starts with.
pub fn kind_prefix(resource: &Resource) -> String {
    let resource = resource.strategy.stored().unwrap_or(resource);
    match resource.group {
        "" => format!("/registry/{}/", resource.plural),
        group => format!("/registry/{group}/{}/", resource.plural),
    }
}

/// What the keys of a collection start with.
pub fn prefix(resource: &Resource, namespace: Option<&str>) -> String {
    match namespace.filter(|_| resource.namespaced()) {
        Some(namespace) => format!("{}{namespace}/", kind_prefix(resource)),
        None => kind_prefix(resource),
    }
}

/// The key of one object.
pub fn key(resource: &Resource, namespace: Option<&str>, name: &str) -> String {
    format!("{}{name}", prefix(resource, namespace))
}
