//! ExternalName Services.

use super::*;

const SVC: &str = "default.svc.cluster.local";

fn chase(cluster: &Cluster, name: &str, rr_type: RecordType) -> (usize, String) {
    let Answer::Chase { answers, target } = cluster.answer(name, rr_type) else { panic!("{name} is not chased") };
    (answers.len(), target.to_string())
}

#[test]
fn an_external_name_is_an_alias_that_is_followed() {
    let mut cluster = Cluster::new();
    cluster.alias("harbor", "harbor.example");
    cluster.alias("pier", "harbor.default.svc.cluster.local.");
    for rr_type in [RecordType::A, RecordType::AAAA] {
        assert_eq!(chase(&cluster, &format!("harbor.{SVC}"), rr_type), (1, "harbor.example.".to_owned()));
    }
    assert_eq!(chase(&cluster, &format!("pier.{SVC}"), RecordType::A), (2, "harbor.example.".to_owned()));
    cluster.has(&format!("harbor.{SVC}"), RecordType::CNAME, ["harbor.example."]);
    cluster.alias("alias", WEB);
    let inside = ["web.default.svc.cluster.local.", "10.96.0.7"];
    cluster.has(&format!("alias.{SVC}"), RecordType::A, inside);
    // The target has no address of that family: the alias alone.
    cluster.alias("idler", "idle.default.svc.cluster.local");
    cluster.has(&format!("idler.{SVC}"), RecordType::AAAA, ["idle.default.svc.cluster.local."]);
    // Neither ports nor endpoints are below it.
    for below in ["x", "_http._tcp", "_tcp"] {
        cluster.denies(&format!("{below}.harbor.{SVC}"));
    }
}

#[test]
fn an_alias_for_an_address_is_the_address() {
    // (e)
    let mut cluster = Cluster::new();
    cluster.alias("number", "192.0.2.7");
    cluster.alias("indirect", "number.default.svc.cluster.local");
    cluster.has(&format!("number.{SVC}"), RecordType::A, ["192.0.2.7"]);
    cluster.lacks(&format!("number.{SVC}"), RecordType::AAAA);
    cluster.lacks(&format!("number.{SVC}"), RecordType::CNAME);
    let both = ["number.default.svc.cluster.local.", "192.0.2.7"];
    cluster.has(&format!("indirect.{SVC}"), RecordType::A, both);
}

#[test]
fn an_alias_for_what_is_not_there_is_given_with_the_code_of_its_target() {
    // (f)
    let mut cluster = Cluster::new();
    cluster.alias("lost", "nope.default.svc.cluster.local");
    let message = cluster.ask(&format!("lost.{SVC}"), RecordType::A);
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(data(&message), set(["nope.default.svc.cluster.local."]));
    assert!(matches!(message.authorities[0].data, RData::SOA(_)));
    // What is left to others is theirs to find.
    cluster.config.fallthrough = dns_zone::Fallthrough::Always;
    let others = (1, "nope.default.svc.cluster.local.".to_owned());
    assert_eq!(chase(&cluster, &format!("lost.{SVC}"), RecordType::A), others);
    cluster.config.fallthrough = dns_zone::Fallthrough::Never;
    cluster.view.synced = false;
    let early = cluster.ask(&format!("lost.{SVC}"), RecordType::A).metadata.response_code;
    assert_eq!(early, ResponseCode::ServFail, "the target may be about to appear");
}

#[test]
fn circles_are_given_once_and_long_chains_to_their_end() {
    let mut cluster = Cluster::new();
    cluster.alias("loop", "loop.default.svc.cluster.local");
    assert_eq!(cluster.ask(&format!("loop.{SVC}"), RecordType::A).answers.len(), 1);
    cluster.alias("one", "two.default.svc.cluster.local");
    cluster.alias("two", "one.default.svc.cluster.local");
    assert_eq!(cluster.ask(&format!("one.{SVC}"), RecordType::A).answers.len(), 2);
    for n in 0..10 {
        cluster.alias(&format!("c{n}"), &format!("c{}.default.svc.cluster.local", n + 1));
    }
    cluster.alias("c10", WEB);
    let message = cluster.ask(&format!("c0.{SVC}"), RecordType::A);
    assert_eq!(message.answers.len(), 12);
    assert!(data(&message).contains("10.96.0.7"));
}

#[test]
fn an_alias_stands_for_every_type() {
    // (g)
    let mut cluster = Cluster::new();
    cluster.alias("alias", WEB);
    let message = cluster.ask(&format!("alias.{SVC}"), RecordType::SRV);
    let records = set([
        "web.default.svc.cluster.local.",
        "0 25 80 web.default.svc.cluster.local.",
        "0 25 53 web.default.svc.cluster.local.",
    ]);
    assert_eq!(data(&message), records);
    assert_eq!(message.additionals.len(), 2);
    cluster.alias("harbor", "harbor.example");
    for rr_type in [RecordType::SRV, RecordType::MX, RecordType::TXT] {
        assert_eq!(chase(&cluster, &format!("harbor.{SVC}"), rr_type).0, 1);
    }
}

#[test]
fn an_alias_may_lead_to_another_of_our_zones() {
    let mut cluster = Cluster::new();
    cluster.config.zones.push(name("other.example"));
    cluster.alias("there", "web.default.svc.other.example");
    cluster.has(&format!("there.{SVC}"), RecordType::A, ["web.default.svc.other.example.", "10.96.0.7"]);
}
