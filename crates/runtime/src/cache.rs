//! The objects of one kind as last seen, fed by a watch and by the answers to our own writes, so that a reconciler
//! always reads what it wrote. Not responsible for talking to the API.
//!
//! resourceVersions are compared as integers (KEP-5504): an answer newer than the watch is *assumed* until the watch
//! reports it, and dropped when the watch passes it by; an event older than what is held is ignored.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use kube::Resource;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use crate::key::Key;

/// One object before and after. `None` means absent.
#[derive(Debug)]
pub struct Change<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The newest form there is: the new one, or what was deleted.
    pub fn latest(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Old and new, whichever exist.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// The objects of one kind. Handlers run after each change, outside the lock; they should only mark keys.
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

struct Inner<K> {
    objects: BTreeMap<Key, Entry<K>>,
    /// Objects held on the word of a write's answer, by the revision at which the watch must have reported them.
    assumed: BTreeMap<u64, Key>,
    /// Uids known to be deleted whose deletion the watch has yet to report.
    gone: HashSet<String>,
    /// What a list under way has brought so far.
    relist: Option<BTreeMap<Key, K>>,
    /// The revision that the watch has reached.
    seen: u64,
    generation: u64,
}

struct Entry<K> {
    object: Arc<K>,
    revision: u64,
    /// Answered while a list was under way, which therefore need not contain it.
    since_relist: bool,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            assumed: BTreeMap::new(),
            gone: HashSet::new(),
            relist: None,
            seen: 0,
            generation: 0,
        };
        Self { inner: RwLock::new(inner), handlers: RwLock::default(), synced: watch::Sender::new(false) }
    }
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("objects", &self.read().objects.len()).finish_non_exhaustive()
    }
}

impl<K> Cache<K> {
    /// The object, if there is one.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).map(|entry| entry.object.clone())
    }

    /// Every object, ordered by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().map(|entry| entry.object.clone()).collect()
    }

    /// The objects of one namespace that satisfy `wanted`, ordered by name.
    pub fn in_namespace(&self, namespace: &str, wanted: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        self.read()
            .objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == namespace)
            .filter(|(_, entry)| wanted(&entry.object))
            .map(|(_, entry)| entry.object.clone())
            .collect()
    }

    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows with every change: equal generations mean equal contents.
    pub fn generation(&self) -> u64 {
        self.read().generation
    }

    /// Calls `handler` after every change from now on.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Returns once the first list is complete.
    pub async fn synced(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, update: impl FnOnce(&mut Inner<K>) -> Vec<Change<K>>) {
        let changes = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            let changes = update(&mut inner);
            inner.generation += u64::from(!changes.is_empty());
            changes
        };
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            handlers.iter().for_each(|handler| handler(change));
        }
    }
}

impl<K: Resource> Cache<K> {
    /// Takes in what the watch says.
    pub fn apply(&self, event: Event<K>) {
        let done = matches!(event, Event::InitDone);
        self.change(|inner| inner.apply(event));
        if done {
            self.synced.send_replace(true);
        }
    }

    /// Takes in the answer to a write.
    pub fn observe(&self, object: K) {
        self.change(|inner| inner.observe(object).into_iter().collect());
    }

    /// Takes in that the object with this uid cannot be read any more, though it is still there.
    pub fn leave_out(&self, key: &Key, uid: &str) {
        self.change(|inner| inner.remove(key, uid).into_iter().collect());
    }

    /// Takes in that the object with this uid is gone.
    pub fn forget(&self, key: &Key, uid: &str) {
        self.change(|inner| inner.forget(key, uid).into_iter().collect());
    }
}

impl<K: Resource> Inner<K> {
    fn apply(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.relist = Some(BTreeMap::new());
                self.objects.values_mut().for_each(|entry| entry.since_relist = false);
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(relist) = &mut self.relist {
                    relist.insert(Key::of(object.meta()), object);
                }
                Vec::new()
            }
            Event::InitDone => self.relisted(),
            Event::Apply(object) => {
                let revision = revision_of(&object);
                let mut changes = Vec::new();
                if let Some(change) = self.reported(object, revision) {
                    changes.push(change);
                }
                changes.extend(self.reached(revision));
                changes
            }
            Event::Delete(object) => {
                let (key, uid) = (Key::of(object.meta()), uid_of(&object).to_owned());
                let mut changes: Vec<_> = self.remove(&key, &uid).into_iter().collect();
                self.gone.remove(&uid);
                changes.extend(self.reached(revision_of(&object)));
                changes
            }
        }
    }

    fn relisted(&mut self) -> Vec<Change<K>> {
        let Some(listed) = self.relist.take() else { return Vec::new() };
        let uids: HashSet<String> = listed.values().map(|object| uid_of(object).to_owned()).collect();
        let absent: Vec<Key> = self
            .objects
            .iter()
            .filter(|(key, entry)| !listed.contains_key(*key) && !entry.since_relist)
            .map(|(key, _)| key.clone())
            .collect();
        let mut changes = Vec::new();
        for key in absent {
            if let Some(entry) = self.objects.remove(&key) {
                self.assumed.retain(|_, assumed| *assumed != key);
                changes.push(Change { old: Some(entry.object), new: None });
            }
        }
        self.gone.retain(|uid| uids.contains(uid));
        for object in listed.into_values() {
            let revision = revision_of(&object);
            self.seen = self.seen.max(revision);
            changes.extend(self.reported(object, revision));
        }
        changes
    }

    /// The watch or a list reports `object`.
    fn reported(&mut self, object: K, revision: u64) -> Option<Change<K>> {
        if self.gone.contains(uid_of(&object)) {
            return None;
        }
        let key = Key::of(object.meta());
        if let Some(held) = self.objects.get(&key) {
            let same = uid_of(&*held.object) == uid_of(&object);
            if revision != 0 && held.revision >= revision && (same || held.revision > revision) {
                if held.revision == revision {
                    self.assumed.remove(&revision);
                }
                return None;
            }
        }
        Some(self.insert(key, object, revision, false))
    }

    /// The watch has come to `revision`: what it should have reported before and did not is not there any more.
    fn reached(&mut self, revision: u64) -> Vec<Change<K>> {
        self.seen = self.seen.max(revision);
        let current = self.assumed.split_off(&revision);
        let passed = std::mem::replace(&mut self.assumed, current);
        let mut changes = Vec::new();
        for (assumed, key) in passed {
            if self.objects.get(&key).is_some_and(|entry| entry.revision == assumed)
                && let Some(entry) = self.objects.remove(&key)
            {
                changes.push(Change { old: Some(entry.object), new: None });
            }
        }
        changes
    }

    fn observe(&mut self, object: K) -> Option<Change<K>> {
        let (key, revision) = (Key::of(object.meta()), revision_of(&object));
        // The watch is already past this answer, so it knows better; without a comparable revision only it can tell.
        if revision == 0 || revision <= self.seen || self.gone.contains(uid_of(&object)) {
            return None;
        }
        if self.objects.get(&key).is_some_and(|held| held.revision >= revision) {
            return None;
        }
        self.assumed.retain(|_, assumed| *assumed != key);
        self.assumed.insert(revision, key.clone());
        let listing = self.relist.is_some();
        Some(self.insert(key, object, revision, listing))
    }

    fn forget(&mut self, key: &Key, uid: &str) -> Option<Change<K>> {
        let change = self.remove(key, uid);
        if change.is_some() {
            self.gone.insert(uid.to_owned());
        }
        change
    }

    fn insert(&mut self, key: Key, object: K, revision: u64, since_relist: bool) -> Change<K> {
        let object = Arc::new(object);
        let entry = Entry { object: object.clone(), revision, since_relist };
        Change { old: self.objects.insert(key, entry).map(|entry| entry.object), new: Some(object) }
    }

    fn remove(&mut self, key: &Key, uid: &str) -> Option<Change<K>> {
        if self.objects.get(key).is_none_or(|entry| uid_of(&*entry.object) != uid) {
            return None;
        }
        self.assumed.retain(|_, assumed| assumed != key);
        self.objects.remove(key).map(|entry| Change { old: Some(entry.object), new: None })
    }
}

fn uid_of<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// 0 for a missing or opaque resourceVersion.
fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            namespace: Some("default".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            resource_version: Some(revision.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn listed(objects: &[ConfigMap]) -> Cache<ConfigMap> {
        let cache = Cache::default();
        relist(&cache, objects);
        cache
    }

    fn relist(cache: &Cache<ConfigMap>, objects: &[ConfigMap]) {
        cache.apply(Event::Init);
        objects.iter().for_each(|object| cache.apply(Event::InitApply(object.clone())));
        cache.apply(Event::InitDone);
    }

    fn held(cache: &Cache<ConfigMap>) -> Vec<(String, u64)> {
        cache.all().iter().map(|o| (o.metadata.name.clone().unwrap(), revision_of(&**o))).collect()
    }

    #[test]
    fn a_list_replaces_what_was_there_and_then_is_synced() {
        let cache = Cache::default();
        assert!(!cache.is_synced());
        relist(&cache, &[object("a", "1", 1), object("b", "2", 2)]);
        assert!(cache.is_synced());
        relist(&cache, &[object("b", "2", 5), object("c", "3", 6)]);
        assert_eq!(held(&cache), [("b".into(), 5), ("c".into(), 6)]);
    }

    #[test]
    fn an_answer_is_read_at_once_and_the_watch_reporting_it_changes_nothing() {
        let cache = listed(&[object("a", "1", 1)]);
        let changes = Arc::new(Mutex::new(0));
        let counter = changes.clone();
        cache.on_change(move |_| *counter.lock().unwrap() += 1);
        cache.observe(object("b", "2", 7));
        assert_eq!(held(&cache), [("a".into(), 1), ("b".into(), 7)]);
        let generation = cache.generation();
        cache.apply(Event::Apply(object("b", "2", 7)));
        assert_eq!((*changes.lock().unwrap(), cache.generation()), (1, generation));
        cache.apply(Event::Apply(object("c", "3", 9)));
        assert_eq!(held(&cache).len(), 3, "a confirmed answer stays");
    }

    #[test]
    fn old_events_never_undo_a_newer_answer() {
        let cache = listed(&[object("a", "1", 1)]);
        cache.observe(object("a", "1", 9));
        cache.apply(Event::Apply(object("a", "1", 4)));
        assert_eq!(held(&cache), [("a".into(), 9)]);
    }

    #[test]
    fn an_answer_that_the_watch_passes_by_is_dropped() {
        let cache = listed(&[]);
        cache.observe(object("a", "1", 5));
        cache.apply(Event::Apply(object("b", "2", 8)));
        assert_eq!(held(&cache), [("b".into(), 8)]);
        cache.observe(object("late", "3", 7));
        assert_eq!(held(&cache), [("b".into(), 8)], "an answer older than the watch is not news");
    }

    #[test]
    fn a_forgotten_object_stays_away_until_its_deletion_is_reported() {
        let cache = listed(&[object("a", "1", 1)]);
        cache.forget(&Key::new("default", "a"), "1");
        cache.apply(Event::Apply(object("a", "1", 3)));
        assert!(cache.is_empty(), "an event from before the deletion does not bring it back");
        cache.apply(Event::Delete(object("a", "1", 4)));
        cache.apply(Event::Apply(object("a", "9", 5)));
        assert_eq!(held(&cache), [("a".into(), 5)]);
        cache.forget(&Key::new("default", "a"), "1");
        assert_eq!(held(&cache), [("a".into(), 5)], "a namesake with another uid is another object");
    }

    #[test]
    fn an_object_left_out_comes_back_when_it_can_be_read_again() {
        let cache = listed(&[object("a", "1", 1)]);
        cache.leave_out(&Key::new("default", "a"), "1");
        assert!(cache.is_empty());
        cache.apply(Event::Apply(object("a", "1", 3)));
        assert_eq!(held(&cache), [("a".into(), 3)]);
    }

    #[test]
    fn an_answer_during_a_list_survives_it() {
        let cache = listed(&[object("a", "1", 1)]);
        cache.observe(object("before", "2", 2));
        cache.apply(Event::Init);
        cache.apply(Event::InitApply(object("a", "1", 1)));
        cache.observe(object("during", "3", 6));
        cache.apply(Event::InitDone);
        assert_eq!(held(&cache), [("a".into(), 1), ("during".into(), 6)]);
    }

    #[test]
    fn namespaces_are_ranges() {
        let cache = listed(&[object("a", "1", 1)]);
        let mut other = object("x", "2", 2);
        other.metadata.namespace = Some("default-2".into());
        cache.apply(Event::Apply(other));
        assert_eq!(cache.in_namespace("default", |_| true).len(), 1);
        assert_eq!(cache.in_namespace("defaul", |_| true).len(), 0);
    }
}
