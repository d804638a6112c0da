//! The packet table through the real kernel, in iptables mode, by the tools of both flavours.
#![allow(clippy::unwrap_used)]

mod inside;

use inside::{Inside, inside};
use iptables::Flavour;
use proxy::Backend;
use proxy::battery::{self, table};
use proxy_iptables::{IptablesBackend, Options};
use proxy_rig::{Rig, play, protocols};
use service_model::IpFamily;

fn every_case(flavour: Flavour) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut complaints = Vec::new();
    for stage in table::stages(&protocols()) {
        let rig = Rig::for_stage(&stage);
        let model = stage.model();
        let tools: [Inside; 2] = IpFamily::BOTH.map(|family| inside(&rig.node, family, flavour));
        for backend in IptablesBackend::pair(tools, Options::default()) {
            let table = model.resolve(&stage.node(), backend.family());
            runtime.block_on(battery::settle(&backend, &table));
        }
        complaints.extend(stage.complaints(table::Mode::Iptables, &play(&rig, &stage)));
    }
    assert!(complaints.is_empty(), "{} cases:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_case_has_its_one_outcome() {
    every_case(Flavour::Nft);
}

#[test]
fn every_case_has_its_one_outcome_by_the_legacy_tools() {
    every_case(Flavour::Legacy);
}
