//! The packet table through the real kernel, in nftables mode.

use nft::Kernel;
use proxy::battery::table::Mode;
use proxy_nftables::Nftables;
use proxy_rig::{every_case, settle};

#[test]
fn every_case_has_its_one_outcome() {
    every_case(Mode::Nftables, |rig, stage| {
        settle(Nftables::pair(rig.node.run(Kernel::open).unwrap().unwrap()), rig, stage);
    });
}
