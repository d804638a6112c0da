//! Listing collections: at which revision, in pages or whole. Not responsible for the form of the answer.

use api::status::Status;
use serde_json::Value;
use store::{Range, Revision, Snapshot};

use super::token::Token;
use super::{Answer, ListOptions, Match, Registry, store_failed, stored};
use crate::http::route::Target;
use crate::kinds;

/// How many objects are read at least when those of a page were not enough.
const CHUNK: usize = 100;

/// A list, or a page of one.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub items: Vec<Value>,
    pub revision: Revision,
    /// Where the next page starts; empty on the last.
    pub token: String,
    /// How many objects the pages after this one have, where that is known.
    pub remaining: Option<usize>,
}

/// What a request asks of the store, once its parameters are understood.
struct Plan {
    /// Wait until the store is here.
    reach: Option<Revision>,
    /// Read this revision instead of the latest.
    at: Option<Revision>,
    start: String,
    limit: usize,
    token: Option<Token>,
}

impl Registry {
    pub async fn list(&self, target: &Target, options: &ListOptions) -> Answer<Listed> {
        let prefix = kinds::prefix(target.resource, target.namespace.as_deref());
        let plan = plan(options, &prefix)?;
        if let Some(revision) = plan.reach {
            self.reach(revision).await?;
        }
        let name = options.selection.name().filter(|_| plan.token.is_none() && one_key(target));
        if let Some(name) = name {
            // One object by name: its key is the only one worth reading, and it is the first of those that begin so.
            let key = format!("{prefix}{name}");
            let range = Range { prefix: key.clone(), start: key.clone(), limit: 1, at: plan.at };
            let mut found = self.store.range(range).await.map_err(|error| expired(error, &plan))?;
            found.entries.retain(|entry| *entry.key == *key);
            found.remaining = 0;
            let mut page = Page::new(target, options, &plan, &prefix);
            page.take(found)?;
            return Ok(page.finish());
        }
        let mut page = Page::new(target, options, &plan, &prefix);
        let mut range = Range { prefix: prefix.clone(), start: plan.start.clone(), limit: plan.limit, at: plan.at };
        loop {
            let found = self.store.range(range.clone()).await.map_err(|error| expired(error, &plan))?;
            // Of what isn't selected a page may need to see much more than it has room for: the further, the more at once.
            let next = found.entries.last().filter(|_| found.remaining > 0).map(|entry| format!("{}\0", entry.key));
            range.at = Some(found.revision);
            page.take(found)?;
            match next {
                Some(start) if !page.is_full() => {
                    range.start = start;
                    range.limit = range.limit.saturating_mul(2).max(CHUNK);
                }
                _ => return Ok(page.finish()),
            }
        }
    }
}

/// Whether a name alone makes a key of the collection.
fn one_key(target: &Target) -> bool {
    target.namespace.is_some() || !target.resource.namespaced()
}

/// The order of upstream's decisions (apiserver storage/cacher/delegator).
fn plan(options: &ListOptions, prefix: &str) -> Answer<Plan> {
    let mut plan = Plan { reach: None, at: None, start: String::new(), limit: options.limit, token: None };
    if let Some(text) = &options.token {
        if !options.resource_version.is_empty() && options.resource_version != "0" {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Box::new(Status::bad_request(why)));
        }
        let token = Token::decode(text)?;
        plan.start = format!("{prefix}{}", token.start);
        plan.at = (token.rv > 0).then_some(Revision(token.rv));
        plan.token = Some(token);
        // Any state may be shown whole (upstream's cache doesn't cut it in pages).
        plan.limit = if options.resource_version == "0" { 0 } else { plan.limit };
        return Ok(plan);
    }
    match (&options.matching, options.revision) {
        (Some(Match::Exact), Some(revision)) => (plan.reach, plan.at) = (Some(revision), Some(revision)),
        // Before resourceVersionMatch existed, a limit made a revision exact.
        (None, Some(revision)) if options.limit > 0 => (plan.reach, plan.at) = (Some(revision), Some(revision)),
        (_, revision) => plan.reach = revision,
    }
    if options.resource_version == "0" {
        plan.limit = 0;
    }
    Ok(plan)
}

fn expired(error: store::Error, plan: &Plan) -> Box<Status> {
    match (error, &plan.token) {
        (store::Error::Compacted { .. }, Some(token)) => {
            Box::new(Status::expired_continue(token.inconsistent().encode()))
        }
        (error, _) => store_failed(error),
    }
}

/// A page while it fills.
struct Page<'a> {
    target: &'a Target,
    options: &'a ListOptions,
    limit: usize,
    prefix: &'a str,
    listed: Listed,
    /// The key of the last object in it.
    last: Option<store::Key>,
    /// Objects that were not looked at.
    left: usize,
}

impl<'a> Page<'a> {
    fn new(target: &'a Target, options: &'a ListOptions, plan: &Plan, prefix: &'a str) -> Self {
        Page { target, options, limit: plan.limit, prefix, listed: Listed::default(), last: None, left: 0 }
    }

    fn is_full(&self) -> bool {
        self.limit > 0 && self.listed.items.len() >= self.limit
    }

    /// Takes what is selected of what was found, until the page is full.
    fn take(&mut self, found: Snapshot) -> Answer<()> {
        self.listed.revision = found.revision;
        let (all, mut seen) = (self.options.selection.is_empty(), 0);
        for entry in &found.entries {
            if self.is_full() {
                break;
            }
            seen += 1;
            let object = stored(entry)?.object;
            if all || self.options.selection.matches(self.target.resource, &object) {
                self.last = Some(entry.key.clone());
                self.listed.items.push(object);
            }
        }
        self.left = found.entries.len() - seen + found.remaining;
        Ok(())
    }

    /// The page, with where the next one starts if there may be one: whether what is left is selected, nobody looked.
    fn finish(mut self) -> Listed {
        if let Some(last) = self.last.filter(|_| self.left > 0) {
            // Pages after an inconsistent one are again of one revision: this one's.
            self.listed.token = Token::after(self.listed.revision.0, &last, self.prefix).encode();
            self.listed.remaining = self.options.selection.is_empty().then_some(self.left);
        }
        self.listed
    }
}
