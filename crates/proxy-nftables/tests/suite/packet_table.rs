//! The packet table through the real kernel, in nftables mode.

use nft::Kernel;
use proxy::battery::table::{Mode, Stage};
use proxy_nftables::Nftables;
use proxy_rig::{Rig, every_case, every_case_by, settle};
use service_model::Protocol;

fn bring(rig: &Rig, stage: &Stage) {
    settle(Nftables::pair(rig.node.run(Kernel::open).unwrap().unwrap()), rig, stage);
}

#[test]
fn every_case_has_its_one_outcome() {
    every_case(Mode::Nftables, bring);
}

#[test]
#[ignore = "needs a kernel with SCTP"]
fn every_case_by_sctp_has_its_one_outcome() {
    every_case_by(Protocol::Sctp, Mode::Nftables, bring);
}
