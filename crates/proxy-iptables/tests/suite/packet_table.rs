//! The packet table through the real kernel, in iptables mode, by the tools of both flavours.

use crate::inside::inside;
use iptables::Flavour;
use proxy::battery::table::{Mode, Stage};
use proxy_iptables::{IptablesBackend, Options};
use proxy_rig::{Rig, every_case, every_case_by, settle};
use service_model::{IpFamily, Protocol};

fn bring(rig: &Rig, stage: &Stage, flavour: Flavour) {
    let tools = IpFamily::BOTH.map(|family| inside(&rig.node, family, flavour));
    settle(IptablesBackend::pair(tools, Options::default()), rig, stage);
}

#[test]
fn every_case_has_its_one_outcome() {
    every_case(Mode::Iptables, |rig, stage| bring(rig, stage, Flavour::Nft));
}

#[test]
fn every_case_has_its_one_outcome_by_the_legacy_tools() {
    every_case(Mode::Iptables, |rig, stage| bring(rig, stage, Flavour::Legacy));
}

#[test]
#[ignore = "needs a kernel with SCTP"]
fn every_case_by_sctp_has_its_one_outcome() {
    every_case_by(Protocol::Sctp, Mode::Iptables, |rig, stage| bring(rig, stage, Flavour::Nft));
}
