//! The rig without any proxy: what the table says of one is then wrong, and what nobody takes is as it says.
#![allow(clippy::unwrap_used)]

use proxy::battery::table::{Expected, Mode, Setup, stages};
use proxy_rig::{Rig, Tally};
use service_model::Protocol;

#[test]
fn without_a_proxy_only_untouched_cases_hold() {
    let stages = stages(&[Protocol::Tcp, Protocol::Udp]);
    let stage = stages.into_iter().find(|stage| stage.setup == Setup::FirstAddress).unwrap();
    let mut tally = Tally::default();
    tally.play(Mode::Nftables, &Rig::for_stage(&stage), &stage);
    for case in &stage.cases {
        // A node's own address without a listener refuses, and so it does where a Service has nobody.
        let holds = matches!(case.expected, Expected::Untouched | Expected::Rejected);
        let complained = tally.complaints.iter().any(|complaint| complaint.starts_with(&format!("{case}: ")));
        assert_eq!(complained, !holds, "{case}: {:?}", tally.complaints);
    }
}
