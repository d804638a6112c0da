//! The packet table through the real kernel, in nftables mode.
#![allow(clippy::unwrap_used)]

use nft::Kernel;
use proxy::Backend;
use proxy::battery::{self, table};
use proxy_nftables::Nftables;
use proxy_rig::{Rig, play, protocols};

#[test]
fn every_case_has_its_one_outcome() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut complaints = Vec::new();
    for stage in table::stages(&protocols()) {
        let rig = Rig::for_stage(&stage);
        let model = stage.model();
        for backend in Nftables::pair(rig.node.run(Kernel::open).unwrap().unwrap()) {
            let table = model.resolve(&stage.node(), backend.family());
            runtime.block_on(battery::settle(&backend, &table));
        }
        complaints.extend(stage.complaints(table::Mode::Nftables, &play(&rig, &stage)));
    }
    assert!(complaints.is_empty(), "{} cases:\n{}", complaints.len(), complaints.join("\n"));
}
