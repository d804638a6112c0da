//! The packet table through the real kernel, in iptables mode, by the tools of both flavours.

use crate::inside::inside;
use iptables::Flavour;
use proxy::battery::table::Mode;
use proxy_iptables::{IptablesBackend, Options};
use proxy_rig::{every_case, settle};
use service_model::IpFamily;

fn every_case_by(flavour: Flavour) {
    every_case(Mode::Iptables, |rig, stage| {
        let tools = IpFamily::BOTH.map(|family| inside(&rig.node, family, flavour));
        settle(IptablesBackend::pair(tools, Options::default()), rig, stage);
    });
}

#[test]
fn every_case_has_its_one_outcome() {
    every_case_by(Flavour::Nft);
}

#[test]
fn every_case_has_its_one_outcome_by_the_legacy_tools() {
    every_case_by(Flavour::Legacy);
}
