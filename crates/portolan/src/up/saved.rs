//! `up -f --watch`: what is saved is applied, and what is wrong with it is told while everything stays as it was.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use kube::Client;

use super::manifests::{self, Change, Manifest, Outcome, Watch};
use super::progress;

/// The files of a system, and what was last applied from them.
pub struct Saved<'a> {
    pub paths: &'a [PathBuf],
    pub prune: bool,
    pub applied: Vec<Manifest>,
    /// How many objects were left out the last time.
    pub skipped: &'a Cell<usize>,
}

impl Saved<'_> {
    /// Applies what the files held at the start, and prunes.
    pub async fn begin(&self, client: &Client) -> Result<Outcome> {
        for line in manifests::repeated(&self.applied) {
            progress::tell(&line);
        }
        let outcome = manifests::apply(client, &self.applied).await?;
        self.after(client, &outcome).await?;
        Ok(outcome)
    }

    /// Follows the files. Returns only with an error of the watching itself.
    pub async fn follow(&mut self, client: &Client) -> Result<()> {
        let mut watch = Watch::start(self.paths)?;
        let mut told = String::new();
        loop {
            // The first time for what was saved since the start.
            let problem = self.again(client).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
            if problem != told && !problem.is_empty() {
                progress::tell(&format!("not applied, and everything is as it was: {problem}"));
            }
            told = problem;
            watch.settled().await?;
        }
    }

    /// Reads the files, and applies them if they say something new.
    async fn again(&mut self, client: &Client) -> Result<()> {
        let manifests = manifests::read(self.paths)?;
        if manifests == self.applied {
            return Ok(());
        }
        for line in manifests::repeated(&manifests) {
            progress::tell(&line);
        }
        let outcome = manifests::apply(client, &manifests).await?;
        self.applied = manifests;
        for applied in outcome.applied.iter().filter(|a| a.change != Change::Unchanged) {
            progress::say(&format!("{} {}", applied.identity, applied.change));
        }
        self.after(client, &outcome).await
    }

    /// Names what was left out, and prunes what is in the files no more.
    async fn after(&self, client: &Client, outcome: &Outcome) -> Result<()> {
        self.skipped.set(outcome.skipped.len());
        for skipped in &outcome.skipped {
            progress::tell(&skipped.to_string());
        }
        if self.prune {
            let kept: BTreeSet<String> = outcome.applied.iter().map(|a| a.identity.clone()).collect();
            for line in manifests::prune(client, self.paths, &kept).await? {
                progress::say(&line);
            }
        }
        Ok(())
    }
}
