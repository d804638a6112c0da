//! The packet table through the real kernel and the process's own listeners, in userspace mode.

use crate::place::Threads;
use nft::Kernel;
use proxy::battery::table::{Mode, Stage};
use proxy::{Backend, Plan, Refusal, RefusalReason};
use proxy_rig::{Rig, every_case, every_case_by};
use proxy_userspace::Userspace;
use service_model::Protocol;

fn bring(rig: &Rig, stage: &Stage) -> ([Userspace<Kernel>; 2], Threads) {
    let threads = Threads::inside(&rig.node);
    let (model, node) = (stage.model(), stage.node());
    let backends = threads.run(async move {
        let backends = Userspace::pair(Kernel::open().unwrap());
        for backend in &backends {
            let observed = backend.observe().await.unwrap();
            let plan = backend.plan(&backend.desired(&model.resolve(&node, backend.family())), &observed);
            assert!(plan.refused().iter().all(is_sctp), "{:?}", plan.refused());
            backend.apply(&plan, observed).await.unwrap();
        }
        backends
    });
    (backends, threads)
}

fn is_sctp(refusal: &Refusal) -> bool {
    refusal.port.protocol == Protocol::Sctp && refusal.reason == RefusalReason::NotRelayed
}

#[test]
fn every_case_has_its_one_outcome() {
    every_case(Mode::Userspace, bring);
}

#[test]
#[ignore = "needs a kernel with SCTP"]
fn every_case_by_sctp_is_refused() {
    every_case_by(Protocol::Sctp, Mode::Userspace, bring);
}
