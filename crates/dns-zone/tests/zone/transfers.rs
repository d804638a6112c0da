//! Whole zones.

use dns_zone::{Record, transfer};

use super::*;

fn all(cluster: &Cluster, zone: &str) -> Vec<Record> {
    transfer(&cluster.view, &cluster.config, &name(zone)).collect()
}

#[test]
fn a_transfer_has_what_questions_are_answered_with_between_two_soas() {
    let mut cluster = Cluster::new();
    cluster.alias("harbor", "harbor.example");
    cluster.alias("number", "192.0.2.7");
    let records = all(&cluster, "cluster.local");
    assert_eq!(records.first(), records.last());
    let mut counts = std::collections::BTreeMap::<u16, usize>::new();
    for record in &records {
        *counts.entry(record.data.rr_type().0).or_default() += 1;
        let rr_type = RecordType::from(record.data.rr_type().0);
        let asked = record.owner.to_string();
        let (code, found) = match cluster.answer(&asked, rr_type) {
            Answer::Chase { .. } => continue,
            _ => cluster.read(&asked, rr_type),
        };
        assert!(code == ResponseCode::NoError && !found.is_empty(), "{asked} {rr_type}");
    }
    // SOA twice; NS; A of ns.dns, web, idle, db twice, three endpoints and number; AAAA of web, db and db-0; TXT; the alias;
    // SRV of two ports of web twice, of idle, and of db's two endpoints twice.
    let expected = [(1, 9), (2, 1), (5, 1), (6, 2), (16, 1), (28, 3), (33, 9)];
    assert_eq!(counts, expected.into());
    assert!(records.iter().all(|record| record.owner.is_in(&name("cluster.local"))));
}

#[test]
fn a_reverse_zone_has_the_addresses_that_lie_in_it() {
    let mut cluster = Cluster::new();
    cluster.config.zones.push(name("96.10.in-addr.arpa"));
    let owners = |zone| -> BTreeSet<String> { all(&cluster, zone).iter().map(|r| r.owner.to_string()).collect() };
    assert!(owners("96.10.in-addr.arpa").contains("7.0.96.10.in-addr.arpa."));
    assert!(!owners("in-addr.arpa").contains("7.0.96.10.in-addr.arpa."));
    assert!(owners("in-addr.arpa").contains("2.0.244.10.in-addr.arpa."));
    assert!(owners("ip6.arpa").len() >= 2);
}

#[test]
fn only_a_zone_as_a_whole_can_be_transferred() {
    let cluster = Cluster::new();
    for rr_type in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(cluster.answer("Cluster.Local", rr_type), Answer::Transfer { zone: name("cluster.local") });
        for none in [WEB, "svc.cluster.local", "example.com"] {
            assert_eq!(cluster.ask(none, rr_type).metadata.response_code, ResponseCode::Refused, "{none}");
        }
    }
}
