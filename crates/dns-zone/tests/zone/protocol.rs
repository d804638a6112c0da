//! Messages: what is asked oddly, how long an answer may be, EDNS.

use dns_zone::{Edns, QueryError, Rcode};

use super::*;

fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = question(WEB, RecordType::A, None);
    change(&mut bytes);
    bytes
}

/// With an OPT record of these octets.
fn with_opt(opt: &[u8]) -> Vec<u8> {
    changed(|bytes| {
        bytes[11] = 1;
        bytes.extend_from_slice(opt);
    })
}

fn respond(bytes: &[u8], keepalive: Option<u16>) -> Vec<u8> {
    let query = Query::parse(bytes).unwrap();
    let cluster = Cluster::new();
    let Answer::Respond(response) = answer(&query, &cluster.view, &cluster.config, 0) else { panic!() };
    Response { keepalive, ..response }.write(&query, 65_535)
}

#[track_caller]
fn refused_as(bytes: &[u8], code: ResponseCode) {
    let Err(QueryError::Reply { rcode, opcode, id }) = Query::parse(bytes) else { panic!("it was read") };
    let reply = Message::from_vec(&Response::header_only(id, opcode, rcode)).unwrap();
    assert_eq!(reply.metadata.response_code, code);
}

#[test]
fn case_is_kept_and_does_not_matter() {
    let query = Query::parse(&question("WeB.DEFault.svc.CLUSTER.local", RecordType::SRV, None)).unwrap();
    let cluster = Cluster::new();
    let Answer::Respond(response) = answer(&query, &cluster.view, &cluster.config, 0) else { panic!() };
    let bytes = response.write(&query, 512);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("WeB") && text.matches("CLUSTER").count() >= 2, "the targets' zone is spelled as asked");
    // The rest of a name is as the API has it, where it isn't the question's.
    let query = Query::parse(&question("_SQL._tcp.DB.default.svc.CLUSTER.local", RecordType::SRV, None)).unwrap();
    let Answer::Respond(response) = answer(&query, &cluster.view, &cluster.config, 0) else { panic!() };
    let message = Message::from_vec(&response.write(&query, 65_535)).unwrap();
    let target = message.answers.iter().map(|r| r.data.to_string()).find(|d| d.contains("db-0")).unwrap();
    assert!(target.ends_with("db-0.db.default.svc.CLUSTER.local."), "{target}");
    let denied = Query::parse(&question("x.CLUSTER.Local", RecordType::A, None)).unwrap();
    let Answer::Respond(response) = answer(&denied, &cluster.view, &cluster.config, 0) else { panic!() };
    let message = Message::from_vec(&response.write(&denied, 512)).unwrap();
    assert_eq!(message.authorities[0].name.to_string(), "CLUSTER.Local.");
    assert!(message.authorities[0].data.to_string().starts_with("ns.dns.CLUSTER.Local. hostmaster.CLUSTER.Local."));
}

#[test]
fn an_answer_too_long_for_udp_is_cut_at_a_record_and_marked() {
    let mut cluster = Cluster::new();
    let endpoints: Vec<Value> = (1..=200).map(|n| json!({"addresses": [format!("10.244.7.{n}")]})).collect();
    cluster.slice("big-1", "big", &json!(null), json!(endpoints));
    cluster.service("big", json!({"clusterIP": "None", "ports": []}));
    for (edns, limit, fits) in [(None, 512, 28), (Some(0), 512, 27), (Some(512), 512, 27), (Some(4096), 1232, 70)] {
        let query = Query::parse(&question("big.default.svc.cluster.local", RecordType::A, edns)).unwrap();
        assert_eq!(query.udp_limit(), limit);
        let Answer::Respond(response) = answer(&query, &cluster.view, &cluster.config, 3) else { panic!() };
        let bytes = response.write(&query, query.udp_limit());
        assert!(bytes.len() <= limit);
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.metadata.truncation && message.answers.len() >= fits, "{}", message.answers.len());
        assert_eq!(message.edns.is_some(), edns.is_some(), "the OPT record stays");
        let whole = Message::from_vec(&response.write(&query, 65_535)).unwrap();
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 200));
    }
}

#[test]
fn what_is_only_beside_the_answer_may_be_left_out_without_a_mark() {
    // RFC 2181 section 9.
    let cluster = Cluster::new();
    let query = Query::parse(&question(&format!("_sql._tcp.{DB}"), RecordType::SRV, None)).unwrap();
    let Answer::Respond(response) = answer(&query, &cluster.view, &cluster.config, 0) else { panic!() };
    let whole = response.write(&query, 65_535);
    let message = Message::from_vec(&response.write(&query, whole.len() - 1)).unwrap();
    assert_eq!((message.metadata.truncation, message.answers.len(), message.additionals.len()), (false, 2, 2));
}

#[test]
fn every_client_starts_at_another_address() {
    let cluster = Cluster::new();
    let query = Query::parse(&question(DB, RecordType::A, None)).unwrap();
    let first = |rotation| {
        let Answer::Respond(response) = answer(&query, &cluster.view, &cluster.config, rotation) else { panic!() };
        response.answers[0].data.clone()
    };
    assert_ne!(first(0), first(1));
    assert_eq!(first(0), first(2));
}

#[test]
fn odd_questions_get_the_codes_they_should() {
    assert_eq!(Query::parse(&changed(|b| b[2] |= 0x80)), Err(QueryError::Ignore));
    assert_eq!(Query::parse(&[0; 5]), Err(QueryError::Ignore));
    for opcode in [1, 2, 4, 5, 6, 15] {
        refused_as(&changed(|b| b[2] |= opcode << 3), ResponseCode::NotImp);
    }
    refused_as(&changed(|b| b[5] = 2), ResponseCode::FormErr);
    refused_as(&changed(|b| b[5] = 0), ResponseCode::FormErr);
    refused_as(&changed(|b| b.truncate(20)), ResponseCode::FormErr);
    // Its name would be part of the header, and another one in the response.
    let into_header = changed(|b| {
        b.truncate(12);
        b.extend([1, b'a', 0xc0, 6, 0, 1, 0, 1]);
    });
    refused_as(&into_header, ResponseCode::FormErr);
    for class in [2, 3, 4, 254, 255] {
        let asked = changed(|b| *b.last_mut().unwrap() = class);
        let message = Message::from_vec(&respond(&asked, None)).unwrap();
        assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::Refused, 0), "{class}");
    }
    // Types that nobody has are types that the name hasn't.
    let cluster = Cluster::new();
    for rr_type in [0, 3, 10, 41, 99, 128, 249, 250, 253, 254, 65535] {
        cluster.lacks(WEB, RecordType::Unknown(rr_type));
        cluster.negative("nope.default.svc.cluster.local", RecordType::Unknown(rr_type), ResponseCode::NXDomain);
    }
}

#[test]
fn the_flags_of_a_question_come_back_and_no_others() {
    for (flags, expected) in
        [([0u8, 0u8], [0x84, 0x80]), ([1, 0], [0x85, 0x80]), ([1, 0x10], [0x85, 0x90]), ([1, 0x60], [0x85, 0x80])]
    {
        let reply = respond(&changed(|b| b[2..4].copy_from_slice(&flags)), None);
        assert_eq!(reply[2..4], expected, "{flags:?}");
        assert_eq!(reply[..2], [0x12, 0x34]);
    }
}

#[test]
fn edns_is_answered_with_edns_of_version_0() {
    let plain = Message::from_vec(&respond(&question(WEB, RecordType::A, None), None)).unwrap();
    assert!(plain.edns.is_none());
    let asked = |ttl: [u8; 4]| with_opt(&[&[0, 0, 41, 0x10, 0][..], &ttl, &[0, 0]].concat());
    let edns = Message::from_vec(&respond(&asked([0; 4]), None)).unwrap();
    let opt = edns.edns.unwrap();
    assert_eq!((edns.answers.len(), opt.version(), opt.max_payload(), opt.flags().dnssec_ok), (1, 0, 1232, false));
    let secure = Message::from_vec(&respond(&asked([0, 0, 0x80, 0]), None)).unwrap();
    assert!(secure.edns.unwrap().flags().dnssec_ok && secure.answers.len() == 1);
    // Flags without a meaning are not given one (RFC 6891 section 6.1.4).
    let flags = respond(&asked([0, 0, 0x7f, 0xff]), None);
    assert_eq!(flags[flags.len() - 4..], [0, 0, 0, 0]);
    for version in [1, 100, 255] {
        let newer = Message::from_vec(&respond(&asked([0, version, 0, 0]), None)).unwrap();
        // BADVERS and BADSIG are one number.
        assert_eq!(u16::from(newer.metadata.response_code), Rcode::BadVers as u16);
        assert_eq!((newer.answers.len(), newer.edns.unwrap().version()), (0, 0));
    }
}

#[test]
fn options_that_nobody_knows_make_no_difference_and_broken_ones_do() {
    let opt =
        |options: &[u8]| with_opt(&[&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, options.len() as u8][..], options].concat());
    let unknown = [0xff, 0xf0, 0, 2, 7, 7, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let message = Message::from_vec(&respond(&opt(&unknown), None)).unwrap();
    assert_eq!((message.answers.len(), message.edns.unwrap().options().as_ref().len()), (1, 0));
    for broken in [&[0][..], &[0, 10, 0], &[0, 10, 0, 9, 1], &[0, 11, 0, 2, 0, 1]] {
        refused_as(&opt(broken), ResponseCode::FormErr);
    }
    let one = [0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0];
    refused_as(
        &changed(|b| {
            b[11] = 2;
            b.extend([one, one].concat());
        }),
        ResponseCode::FormErr,
    );
    refused_as(
        &changed(|b| {
            b[11] = 1;
            b.extend([&[1, b'x'][..], &one].concat());
        }),
        ResponseCode::FormErr,
    );
    // An OPT record elsewhere is none.
    let in_authority = changed(|b| {
        b[9] = 1;
        b.extend(one);
    });
    assert_eq!(Query::parse(&in_authority).unwrap().edns, None);
}

#[test]
fn who_asks_how_long_a_connection_stays_is_told() {
    let asked = with_opt(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 4, 0, 11, 0, 0]);
    let edns = Query::parse(&asked).unwrap().edns;
    assert_eq!(edns, Some(Edns { udp_size: 4096, version: 0, dnssec_ok: false, keepalive: true }));
    let reply = respond(&asked, Some(100));
    assert_eq!(reply[reply.len() - 8..], [0, 6, 0, 11, 0, 2, 0, 100]);
    assert!(Message::from_vec(&reply).unwrap().answers.len() == 1);
    // Neither by UDP nor to those who didn't ask (RFC 7828 section 3.2.2).
    assert!(respond(&asked, None).ends_with(&[0, 0]));
    let not_asked = respond(&question(WEB, RecordType::A, Some(4096)), Some(100));
    assert!(not_asked.ends_with(&[0, 0]));
}

#[test]
fn a_client_says_which_state_of_a_zone_it_has() {
    let mut asked = question("cluster.local", RecordType::IXFR, None);
    asked[9] = 1;
    let numbers = [7u32, 7200, 1800, 86400, 5].map(u32::to_be_bytes).concat();
    let soa = [&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 5, 0, 24, 0xc0, 12, 0xc0, 12][..], &numbers].concat();
    asked.extend_from_slice(&soa);
    assert_eq!(Query::parse(&asked).unwrap().serial, Some(7));
    assert_eq!(Query::parse(&question("cluster.local", RecordType::IXFR, None)).unwrap().serial, None);
}

static CLUSTER: std::sync::LazyLock<Cluster> = std::sync::LazyLock::new(Cluster::new);

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_query_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        if let Ok(query) = Query::parse(&bytes)
            && let Answer::Respond(response) = answer(&query, &CLUSTER.view, &CLUSTER.config, 1)
        {
            response.write(&query, query.udp_limit());
        }
    }
}
