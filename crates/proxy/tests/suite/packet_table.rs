//! The packet table against the oracle: both were written by hand from the same rules, so neither is right alone.

use std::collections::BTreeSet;

use proxy::battery::table::{Case, Mode, Pod, Seen, Sender, Setup, Target, differences, scenes, stages};
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

/// The first case of a scene that is asked so by this sender, of IPv4 and TCP.
fn case(scene: &str, sender: Sender, target: Target) -> Case {
    let cases = scenes().into_iter().filter(|one| one.name == scene).flat_map(|one| one.cases());
    let first = |case: &Case| {
        let probe = &case.probe;
        probe.sender == sender && probe.target == target && probe.family == IpFamily::V4
    };
    cases.into_iter().find(first).unwrap()
}

fn answered(by: &str, client: &str) -> Seen {
    Seen::Answered { by: by.parse().unwrap(), client: client.parse().unwrap() }
}

#[test]
fn what_differs_from_a_row_is_not_accepted() {
    // Two endpoints, at 10.244.1.5 and 10.244.2.5; the node masquerades as any address of its own.
    let balanced = case("external-ip", Sender::Outside(0), Target::ExternalIp);
    let [here, there] = ["10.244.1.5:8080", "10.244.2.5:8080"];
    let judge = |case: &Case, seen: &[Seen]| case.expected.judge(case, seen).is_ok();
    assert!(judge(&balanced, &[answered(here, "10.244.1.1"), answered(there, "172.30.0.11")]));
    assert!(!judge(&balanced, &[answered(here, "10.244.1.1")]), "the other is never met");
    assert!(!judge(&balanced, &[answered(here, "172.30.0.1"), answered(there, "172.30.0.11")]), "not masqueraded");
    assert!(!judge(&balanced, &[answered(here, "10.244.1.1"), Seen::Nothing]));
    assert!(!judge(&balanced, &[Seen::Refused]));
    assert!(!judge(&balanced, &[]));
    let itself = case("hairpin-of-two", Sender::Pod(Pod::Here(0)), Target::ClusterIp);
    let other = answered("10.244.1.6:8080", "10.244.1.5");
    assert!(judge(&itself, &[answered(here, "10.244.1.1"), other.clone()]));
    assert!(!judge(&itself, &[answered(here, "10.244.1.5"), other]), "it would answer itself");
    let free = case("external-ip", Sender::Outside(0), Target::ExternalIpOtherPort);
    let to = free.probe.to.to_string();
    assert!(judge(&free, &[answered(&to, "172.30.0.1")]));
    assert!(!judge(&free, &[answered(&to, "172.30.0.11")]), "changed on its way");
    assert!(!judge(&free, &[Seen::Refused]));
    let nobodys = case("no-external-ip", Sender::Outside(0), Target::NodePort);
    assert!(judge(&nobodys, &[Seen::Refused]), "the node says so itself");
}

#[test]
fn a_client_that_does_not_stick_is_complained_about() {
    let mut stage = stages(&EVERY_PROTOCOL).swap_remove(0);
    let [first, second] = [Target::NodePort, Target::ExternalIp].map(|to| case("sticky", Sender::Outside(0), to));
    stage.cases = vec![first, second];
    let [here, there] = [answered("10.244.1.5:8080", "10.244.1.1"), answered("10.244.2.5:8080", "172.30.0.11")];
    let complaints = |seen: [&[&Seen]; 2]| {
        let seen: [Vec<Seen>; 2] = seen.map(|of_case| of_case.iter().map(|one| (*one).clone()).collect());
        stage.complaints(Mode::Nftables, &seen)
    };
    assert!(complaints([&[&here, &here], &[&here]]).is_empty());
    assert_eq!(complaints([&[&here, &there], &[&here]]).len(), 2, "at one address, and so at both");
    assert_eq!(complaints([&[&here, &here], &[&there]]).len(), 1, "another at the other address");
    assert_eq!(stage.in_turn(), [[0, 1]], "one is asked after the other");
}

#[test]
fn a_difference_has_to_differ() {
    let mut stage = stages(&EVERY_PROTOCOL).swap_remove(0);
    stage.cases = vec![case("cluster-ip", Sender::Outside(0), Target::ClusterIpOtherPort)];
    let beyond = answered(&stage.cases[0].probe.to.to_string(), "172.30.0.1");
    let complaints = |mode: Mode, seen: &Seen| stage.complaints(mode, &[vec![seen.clone()]]).len();
    assert_eq!(complaints(Mode::Iptables, &Seen::Refused), 0);
    assert_eq!(complaints(Mode::Iptables, &beyond), 1);
    assert_eq!(complaints(Mode::OriginalIptables, &beyond), 0);
    assert_eq!(complaints(Mode::OriginalIptables, &Seen::Refused), 1, "as the table says, which is no difference");
    assert_eq!(complaints(Mode::OriginalIptables, &Seen::Nothing), 1, "neither the one nor the other");
}

#[test]
fn every_difference_concerns_some_case_and_differs() {
    let cases: Vec<Case> = stages(&EVERY_PROTOCOL).into_iter().flat_map(|stage| stage.cases).collect();
    for one in differences() {
        for mode in one.modes {
            let concerned: Vec<&Case> = cases.iter().filter(|case| one.concerns(*mode, case)).collect();
            assert!(!concerned.is_empty(), "{mode:?}, {}", one.reason);
            assert!(
                concerned.iter().all(|case| case.expected != (one.expected)(&case.expected)),
                "{mode:?}, {}",
                one.reason
            );
        }
    }
}
