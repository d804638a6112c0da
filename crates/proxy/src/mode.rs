//! A proxy mode as a whole, whatever types its backends have: what the rest of a proxy starts, looks at and cleans up.
//! Not responsible for which mode it is to be, nor for when it takes another's place (`run`).

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use conntrack::{Conntrack, ConntrackError};
use futures::future::BoxFuture;
use service_model::{ForwardingTable, FrontendKey, IpFamily, ServiceModel};

use crate::backend::{Backend, Plan, Refusal, Retired, Seen};
use crate::loopback;
use crate::status::Reporter;
use crate::syncer::{Complaint, Shared, Syncer};

/// Rules that are in a kernel, and can be removed from it.
pub trait Rules: Send + Sync + 'static {
    /// Whose they are: a mode, as kube-proxy's configuration names it, or somebody else.
    fn name(&self) -> &'static str;

    /// Removes all of them. With `close_loopback`, the way to the node's loopback that they have guarded is closed before
    /// they go.
    fn cleanup(&self, close_loopback: bool) -> BoxFuture<'_, Result<(), ModeError>>;

    /// The same when another mode is in force, but for what connections still need. Asked again until all is gone.
    fn retire(&self, _in_force: &'static str, close_loopback: bool) -> BoxFuture<'_, Result<Retired, ModeError>> {
        Box::pin(async move { self.cleanup(close_loopback).await.map(|()| Retired::Gone) })
    }

    /// Whether this process answers there for them, also after another mode has taken their place.
    fn answers_at(&self, _address: SocketAddr) -> bool {
        false
    }
}

/// How Services are made to work, ready to do it.
pub trait Mode: Rules {
    /// Tasks, one for each family, that keep the kernel in step with what is shared until their token is cancelled.
    fn syncers(&self, parts: &Parts) -> Result<Vec<BoxFuture<'static, ()>>, ConntrackError>;

    /// Compares what is in force with what should be, and changes nothing.
    fn look<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Difference>, ModeError>>;

    /// Whether packets are led by rules, so that the kernel has to forward.
    fn programs_the_kernel(&self) -> bool;

    /// Whether its rules can keep neighbours from the node's loopback.
    fn can_guard_loopback(&self) -> bool;
}

/// A family's table as it should be, for one who serves loopback addresses too or doesn't; `None` if nothing is known of it.
pub type Wanted<'a> = &'a (dyn Fn(IpFamily, bool) -> Option<ForwardingTable> + Send + Sync);

/// Tells of a Service.
pub(crate) type Complain = Arc<dyn Fn(&Complaint, &ServiceModel) + Send + Sync>;

/// What a mode's tasks work with.
#[derive(Clone)]
pub struct Parts {
    pub shared: Shared,
    pub(crate) reporter: Reporter,
    pub(crate) complain: Complain,
    pub token: tokio_util::sync::CancellationToken,
}

/// What a family's rules lack to be what they should.
#[derive(Clone, Debug)]
pub struct Difference {
    pub family: IpFamily,
    /// 0: nothing.
    pub steps: usize,
    /// As the mode's own tool would be fed.
    pub plan: String,
    pub refused: Vec<Refusal>,
    /// The table it was compared with.
    pub table: ForwardingTable,
    /// What is met at each frontend of the table's: by strangers, and by this node and its pods.
    pub seen: BTreeMap<FrontendKey, [Seen; 2]>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {step} the rules of {mode} {family}")]
pub struct ModeError {
    pub mode: &'static str,
    pub family: IpFamily,
    pub step: ModeStep,
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeStep {
    Read,
    CloseLoopback,
    Remove,
}

/// A mode made of one backend per family.
pub struct Backends<B> {
    backends: Vec<Arc<B>>,
}

impl<B: Backend> Backends<B> {
    pub fn new(backends: impl IntoIterator<Item = B>) -> Backends<B> {
        Backends { backends: backends.into_iter().map(Arc::new).collect() }
    }

    fn failed(&self, backend: &B, step: ModeStep, source: impl Error + Send + Sync + 'static) -> ModeError {
        ModeError { mode: backend.name(), family: backend.family(), step, source: Box::new(source) }
    }

    async fn close_loopback(&self, backend: &B) -> Result<(), ModeError> {
        let observed = backend.observe().await.map_err(|error| self.failed(backend, ModeStep::Read, error))?;
        if backend.guards_loopback(&observed) {
            loopback::close().map_err(|error| self.failed(backend, ModeStep::CloseLoopback, error))?;
        }
        Ok(())
    }
}

impl<B: Backend> Rules for Backends<B> {
    fn name(&self) -> &'static str {
        self.backends.first().map_or("", |backend| backend.name())
    }

    fn cleanup(&self, close_loopback: bool) -> BoxFuture<'_, Result<(), ModeError>> {
        Box::pin(async move {
            for backend in &self.backends {
                if close_loopback {
                    self.close_loopback(backend).await?;
                }
                backend.cleanup().await.map_err(|error| self.failed(backend, ModeStep::Remove, error))?;
            }
            Ok(())
        })
    }

    fn retire(&self, _: &'static str, close_loopback: bool) -> BoxFuture<'_, Result<Retired, ModeError>> {
        Box::pin(async move {
            let mut retired = Retired::Gone;
            for backend in &self.backends {
                if close_loopback {
                    self.close_loopback(backend).await?;
                }
                let one = backend.retire().await.map_err(|error| self.failed(backend, ModeStep::Remove, error))?;
                retired = retired.max(one);
            }
            Ok(retired)
        })
    }

    fn answers_at(&self, address: SocketAddr) -> bool {
        self.backends.iter().any(|backend| backend.answers_at(address))
    }
}

impl<B: Backend> Mode for Backends<B> {
    fn syncers(&self, parts: &Parts) -> Result<Vec<BoxFuture<'static, ()>>, ConntrackError> {
        let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
        for backend in &self.backends {
            let Parts { shared, reporter, complain, token } = parts.clone();
            let conntrack = backend.programs_the_kernel().then(Conntrack::open).transpose()?;
            let complain = move |complaint: &Complaint, model: &ServiceModel| complain(complaint, model);
            let syncer = Syncer::reporting(backend.clone(), shared, reporter, conntrack, complain);
            tasks.push(Box::pin(syncer.run(token)));
        }
        Ok(tasks)
    }

    fn look<'a>(&'a self, wanted: Wanted<'a>) -> BoxFuture<'a, Result<Vec<Difference>, ModeError>> {
        Box::pin(async move {
            let mut differences = Vec::new();
            for backend in &self.backends {
                let Some(table) = wanted(backend.family(), backend.serves_loopback()) else { continue };
                let observed = backend.observe().await.map_err(|error| self.failed(backend, ModeStep::Read, error))?;
                let plan = backend.plan(&backend.desired(&table), &observed);
                let frontends = table.ports.values().flat_map(|port| {
                    port.frontends.iter().map(|frontend| frontend.key(port.protocol)).collect::<Vec<_>>()
                });
                let seen = |key| (key, [false, true].map(|here| backend.seen(&observed, key, here)));
                differences.push(Difference {
                    seen: frontends.map(seen).collect(),
                    family: backend.family(),
                    steps: plan.steps(),
                    plan: plan.to_string(),
                    refused: plan.refused().to_vec(),
                    table,
                });
            }
            Ok(differences)
        })
    }

    fn programs_the_kernel(&self) -> bool {
        self.backends.iter().any(|backend| backend.programs_the_kernel())
    }

    fn can_guard_loopback(&self) -> bool {
        self.backends.iter().any(|backend| backend.can_guard_loopback())
    }
}

impl std::fmt::Display for ModeStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ModeStep::Read => "read",
            ModeStep::CloseLoopback => "close the node's loopback before removing",
            ModeStep::Remove => "remove",
        })
    }
}
