//! The packet table through the real kernel and the process's own listeners, in userspace mode.

use crate::place::Threads;
use nft::Kernel;
use proxy::Backend;
use proxy::battery::{self, table::Mode};
use proxy_rig::every_case;
use proxy_userspace::Userspace;

#[test]
fn every_case_has_its_one_outcome() {
    every_case(Mode::Userspace, |rig, stage| {
        let threads = Threads::inside(&rig.node);
        let (model, node) = (stage.model(), stage.node());
        let backends = threads.run(async move {
            let backends = Userspace::pair(Kernel::open().unwrap());
            for backend in &backends {
                battery::settle(backend, &model.resolve(&node, backend.family())).await;
            }
            backends
        });
        (backends, threads)
    });
}
