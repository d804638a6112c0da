//! The packet table against the oracle: both were written by hand from the same rules, so neither is right alone.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proxy::battery::table::{Case, Setup, scenes, stages};
use service_model::{IpFamily, Protocol};

const EVERY_PROTOCOL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

#[test]
fn the_oracle_says_the_same_of_every_case() {
    let mut wrong = Vec::new();
    for stage in stages(&EVERY_PROTOCOL) {
        let model = stage.model();
        for family in IpFamily::BOTH {
            let table = model.resolve(&stage.node(), family);
            assert!(table.problems().is_empty(), "{:?}", table.problems());
            for case in stage.cases.iter().filter(|case| case.probe.family == family) {
                let outcome = table.lookup(&case.probe.packet());
                if !case.expected.is_outcome(case, &outcome) {
                    wrong.push(format!("{case}: {:?} is expected, but the oracle says {outcome:?}", case.expected));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn it_is_large_and_says_everything_once() {
    let cases: Vec<Case> = stages(&EVERY_PROTOCOL).into_iter().flat_map(|stage| stage.cases).collect();
    let here = stages(&[Protocol::Tcp, Protocol::Udp]).iter().map(|stage| stage.cases.len()).sum::<usize>();
    assert!(here >= 400, "{here} cases for a kernel without SCTP");
    assert!(cases.len() > here, "and some for one that has it");
    let names: BTreeSet<String> = cases.iter().map(Case::to_string).collect();
    assert_eq!(names.len(), cases.len(), "no case is there twice");
    let setups: BTreeSet<Setup> = stages(&EVERY_PROTOCOL).iter().map(|stage| stage.setup).collect();
    assert_eq!(setups, BTreeSet::from(Setup::ALL));
}

#[test]
fn every_scene_has_its_own_name_and_place() {
    let scenes = scenes();
    let names: BTreeSet<&str> = scenes.iter().map(|scene| scene.name).collect();
    assert_eq!(names.len(), scenes.len());
    let places: BTreeSet<u8> = scenes.iter().map(|scene| scene.place.0).collect();
    assert_eq!(places.len(), scenes.len(), "there are places for 250");
    assert!(!places.contains(&0));
}
