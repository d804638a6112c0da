//! Listing collections: at which revision, in pages or whole. Not responsible for the form of the answer.

use api::status::Status;
use serde_json::Value;
use store::{Range, Revision, Snapshot};

use super::token::Token;
use super::{Answer, ListOptions, Match, Registry, store_failed, stored};
use crate::http::route::Target;
use crate::kinds;

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
        let range = match name {
            // One object by name: its key is the only one worth reading.
            Some(name) => {
                let key = format!("{prefix}{name}");
                Range { prefix: key.clone(), start: key, limit: 1, at: plan.at }
            }
            None => {
                let limit = if options.selection.is_empty() { plan.limit } else { 0 };
                Range { prefix: prefix.clone(), start: plan.start.clone(), limit, at: plan.at }
            }
        };
        let found = self.store.range(range).await.map_err(|error| expired(error, &plan))?;
        select(target, options, &plan, &prefix, found)
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
        return Ok(plan);
    }
    match (options.matching, options.revision) {
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

fn select(target: &Target, options: &ListOptions, plan: &Plan, prefix: &str, found: Snapshot) -> Answer<Listed> {
    let mut listed = Listed { revision: found.revision, ..Listed::default() };
    let all = options.selection.is_empty();
    let mut last = None;
    let mut more = found.remaining > 0;
    for entry in &found.entries {
        let object = stored(entry)?.object;
        if !all && !options.selection.matches(target.resource, &object) {
            continue;
        }
        if plan.limit > 0 && listed.items.len() == plan.limit {
            more = true;
            break;
        }
        last = Some(&entry.key);
        listed.items.push(object);
    }
    if let Some(last) = last.filter(|_| more) {
        // Pages after an inconsistent one are again of one revision: this one's.
        listed.token = Token::after(found.revision.0, last, prefix).encode();
        listed.remaining = all.then_some(found.remaining).filter(|remaining| *remaining > 0);
    }
    Ok(listed)
}
