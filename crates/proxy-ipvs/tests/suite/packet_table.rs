//! The packet table through a real kernel, in ipvs mode. Where the kernel has no IPVS, `cargo xtask test-vm --small` runs it
//! in a guest, which has SCTP too.

use ipvs::Kernel;
use proxy::battery::table::Mode;
use proxy_ipvs::{IpvsBackend, Options, prepare};
use proxy_rig::{every_case, settle};

#[test]
#[ignore = "needs a kernel with IPVS"]
fn every_case_has_its_one_outcome() {
    every_case(Mode::Ipvs, |rig, stage| {
        let options = Options::default();
        let mut kernel = rig.node.run(Kernel::open).unwrap().expect("a kernel with IPVS");
        prepare(&rig.node, &mut kernel, &options).unwrap();
        let nft = rig.node.run(nft::Kernel::open).unwrap().unwrap();
        settle(IpvsBackend::pair(nft, kernel, options), rig, stage)
    });
}
