//! The mode that is in force, and how another takes its place: it is started beside it, its rules are seen to be in the
//! kernel, and only then does the old one end and take its rules away. Connections keep the translation that connection
//! tracking remembers, and whichever mode translates a new one's first packet, the table both work from is the same. Not
//! responsible for when.

use std::sync::Arc;
use std::time::Duration;

use conntrack::ConntrackError;
use service_model::IpFamily;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend::Retired;
use crate::loopback;
use crate::mode::{Complain, Mode, ModeError, Parts, Rules};
use crate::status::{Reporter, Status};
use crate::syncer::Shared;

/// How long a mode may take to come into force once it is known what is to be in force.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked whether it is.
const ASK: Duration = Duration::from_millis(20);
/// Under changes that never pause, the kernel is always one behind: so many looks are enough.
const LOOKS: u32 = 20;

/// A mode at work.
pub(crate) struct Engine {
    pub mode: Arc<dyn Mode>,
    reporter: Reporter,
    token: CancellationToken,
    tasks: JoinSet<()>,
}

/// What an engine works on.
#[derive(Clone)]
pub(crate) struct Bench {
    pub shared: Shared,
    pub status: Status,
    pub complain: Complain,
    pub token: CancellationToken,
    /// The name of the mode in force.
    pub name: Arc<watch::Sender<&'static str>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("cannot read connection tracking")]
    Conntrack(#[from] ConntrackError),
    #[error("{mode} mode is not in force after {PATIENCE:?}{}", reason(.failures))]
    NotInForce { mode: &'static str, failures: Vec<(IpFamily, String)> },
    #[error("{mode} mode cannot be looked at")]
    Look {
        mode: &'static str,
        #[source]
        source: ModeError,
    },
    #[error("the proxy ends")]
    Ended,
}

impl Engine {
    /// Starts a mode that nobody stands in the way of.
    pub(crate) fn start(bench: &Bench, mode: Arc<dyn Mode>) -> Result<Engine, ConntrackError> {
        let engine = Engine::reporting_to(bench, mode, bench.status.clone())?;
        bench.name.send_replace(engine.mode.name());
        Ok(engine)
    }

    fn reporting_to(bench: &Bench, mode: Arc<dyn Mode>, status: Status) -> Result<Engine, ConntrackError> {
        let (reporter, token) = (Reporter::to(status), bench.token.child_token());
        let (shared, complain) = (bench.shared.clone(), bench.complain.clone());
        let parts = Parts { shared, reporter: reporter.clone(), complain, token: token.clone() };
        let mut tasks = JoinSet::new();
        for syncer in mode.syncers(&parts)? {
            tasks.spawn(syncer);
        }
        Ok(Engine { mode, reporter, token, tasks })
    }

    /// Puts another mode in this one's place. If that fails, this one stays as it is.
    pub(crate) async fn switch(&mut self, bench: &Bench, mode: Arc<dyn Mode>) -> Result<Arc<dyn Mode>, SwitchError> {
        if mode.name() == self.mode.name() {
            return self.renew(bench, mode).await;
        }
        let apart = bench.status.apart();
        let former = self.mode.name();
        bench.shared.add_former(self.mode.clone());
        let next =
            Engine::reporting_to(bench, mode, apart.clone()).inspect_err(|_| bench.shared.forget_former(former))?;
        if let Err(error) = next.in_force(bench, &apart).await {
            bench.shared.forget_former(former);
            let refused = next.end().await;
            bench.status.take_counts(&apart);
            let (name, close_loopback) = (self.mode.name(), !self.mode.can_guard_loopback());
            if !matches!(error, SwitchError::Ended)
                && let Err(error) = leave(&*refused, name, close_loopback).await
            {
                tracing::warn!(error = %runtime::driver::chain(&error), "rules of the refused mode stay");
            }
            // What it has led elsewhere in the meantime has nobody there any more.
            bench.shared.doubt_flows();
            return Err(error);
        }
        let old = std::mem::replace(self, next).end().await;
        self.reporter.turn_to(&bench.status);
        bench.name.send_replace(self.mode.name());
        Ok(old)
    }

    /// The same mode with other options: two at once would undo each other's work, so the rules stay without anybody who
    /// looks after them for a moment.
    async fn renew(&mut self, bench: &Bench, mode: Arc<dyn Mode>) -> Result<Arc<dyn Mode>, SwitchError> {
        self.token.cancel();
        while self.tasks.join_next().await.is_some() {}
        let before = self.mode.clone();
        *self = Engine::reporting_to(bench, mode, bench.status.clone())?;
        Ok(before)
    }

    /// Waits until every family's rules are in the kernel.
    pub(crate) async fn in_force(&self, bench: &Bench, status: &Status) -> Result<(), SwitchError> {
        let mode = self.mode.name();
        let wait = async {
            bench.shared.complete().await;
            let reached = tokio::time::timeout(PATIENCE, reached(status, &self.families(bench).await?)).await;
            reached.map_err(|_| SwitchError::NotInForce {
                mode,
                failures: status.progress().failures.into_iter().collect(),
            })?;
            for _ in 0..LOOKS {
                if self.seen(bench).await? {
                    break;
                }
                tokio::time::sleep(ASK).await;
            }
            Ok(())
        };
        tokio::select! {
            () = bench.token.cancelled() => Err(SwitchError::Ended),
            done = wait => done,
        }
    }

    async fn families(&self, bench: &Bench) -> Result<Vec<IpFamily>, SwitchError> {
        let wanted = |family, loopback| bench.shared.table(family, loopback);
        let looks = self.mode.look(&wanted).await.map_err(|source| self.cannot_look(source))?;
        Ok(looks.into_iter().map(|look| look.family).collect())
    }

    async fn seen(&self, bench: &Bench) -> Result<bool, SwitchError> {
        let wanted = |family, loopback| bench.shared.table(family, loopback);
        let looks = self.mode.look(&wanted).await.map_err(|source| self.cannot_look(source))?;
        Ok(looks.iter().all(|look| look.steps == 0))
    }

    fn cannot_look(&self, source: ModeError) -> SwitchError {
        SwitchError::Look { mode: self.mode.name(), source }
    }

    /// Stops; the rules stay.
    pub(crate) async fn end(mut self) -> Arc<dyn Mode> {
        self.token.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.mode
    }
}

/// Removes what a mode has written that was refused. Nobody asks it again, so it keeps no listener.
async fn leave(refused: &dyn Rules, in_force: &'static str, close_loopback: bool) -> Result<(), ModeError> {
    match refused.retire(in_force, close_loopback).await? {
        Retired::Answering => refused.cleanup(close_loopback).await,
        Retired::Gone | Retired::Draining => Ok(()),
    }
}

/// Removes what a mode that is not in force any more has left, as far as no connection needs it. The way to the node's
/// loopback stays open only if it is wanted and the mode in force guards it.
pub(crate) async fn clear(bench: &Bench, in_force: &dyn Mode, old: &dyn Rules) -> Result<Retired, ModeError> {
    let table = bench.shared.table(IpFamily::V4, false);
    let stays = in_force.can_guard_loopback() && table.is_some_and(|table| loopback::answers(&table));
    old.retire(in_force.name(), !stays).await
}

async fn reached(status: &Status, families: &[IpFamily]) {
    for family in families {
        if let Some(mut applied) = status.applied(*family) {
            // The sender is in `status`, which is there.
            let _ = applied.wait_for(Option::is_some).await;
        }
    }
}

fn reason(failures: &[(IpFamily, String)]) -> String {
    failures.iter().map(|(family, failure)| format!("; {family}: {failure}")).collect()
}
