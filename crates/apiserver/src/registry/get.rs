//! Reading one object, and waiting for a revision that a client has seen elsewhere.

use std::time::Duration;

use api::status::Status;
use serde_json::Value;
use store::Revision;

use super::{Answer, Registry, store_failed};
use crate::http::route::Target;
use crate::kinds;

/// How long a read waits for a revision that isn't there yet (apiserver storage/cacher).
const PATIENCE: Duration = Duration::from_secs(3);

impl Registry {
    /// GET of one object; a resourceVersion means "not older than".
    pub async fn get(&self, target: &Target, resource_version: Option<&str>) -> Answer<Value> {
        let name = target.name.as_deref().unwrap_or_default();
        if let Some(revision) = resource_version.map(parse_revision).transpose()?.flatten() {
            self.reach(revision).await?;
        }
        let key = kinds::key(target.resource, target.namespace.as_deref(), name);
        match self.read(&key).await? {
            Some(stored) => Ok(stored.object),
            None => Err(Box::new(Status::not_found(target.resource.into(), name))),
        }
    }

    /// Waits until the store is at a revision; 504 when that takes too long.
    pub(super) async fn reach(&self, wanted: Revision) -> Answer<()> {
        let current = self.store.revision().await.map_err(store_failed)?;
        if current >= wanted {
            return Ok(());
        }
        let mut watch = self.store.watch("", current).await.map_err(store_failed)?;
        let reached = async {
            loop {
                match watch.next().await {
                    Ok(batch) if batch.revision >= wanted => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.unwrap_or(false) {
            return Ok(());
        }
        let current = self.store.revision().await.map_err(store_failed)?;
        let (wanted, current) = (wanted.0.unsigned_abs(), current.0.unsigned_abs());
        Err(Box::new(Status::too_large_resource_version(wanted, current)))
    }
}

/// `None` for 0, which any state satisfies.
pub fn parse_revision(text: &str) -> Answer<Option<Revision>> {
    match text.parse::<i64>() {
        Ok(0) => Ok(None),
        Ok(number) if number > 0 => Ok(Some(Revision(number))),
        _ => {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let why = if digits { "value out of range" } else { "invalid syntax" };
            Err(Box::new(Status::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}"
            ))))
        }
    }
}
