//! Names that aren't the cluster's: asked of another server, which here counts what it is asked.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dns::Config;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

/// `big.example` doesn't fit a datagram; `nope.example` doesn't exist; every other name has an address.
fn reply(question: &[u8], udp: bool) -> Vec<u8> {
    let mut message = Message::from_vec(question).unwrap().into_response();
    let name = message.queries[0].name().clone();
    let count = match name.to_string().to_ascii_lowercase().as_str() {
        "nope.example." => 0,
        "big.example." if udp => {
            message.metadata.truncation = true;
            0
        }
        "big.example." => 100,
        _ => 1,
    };
    if name.to_string() == "nope.example." {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    for n in 0..count {
        let data = RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
        message.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
    message.to_vec().unwrap()
}

async fn upstream() -> Upstream {
    let asked = Arc::new(AtomicUsize::new(0));
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let counter = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            udp.send_to(&reply(&buffer[..length], true), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await.unwrap();
            let reply = reply(&question, false);
            stream.write_u16(reply.len() as u16).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    Upstream { address, asked }
}

/// A server whose API is nowhere: what it forwards doesn't depend on it.
async fn server(upstreams: Vec<SocketAddr>) -> (SocketAddr, DropGuard) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = Config {
        listen: vec![free],
        records: dns::Records::of_cluster(dns::Name::parse("cluster.local").unwrap()),
        upstreams,
        ..Config::default()
    };
    let stop = CancellationToken::new();
    let client = runtime::transport::unix(std::path::Path::new("/nonexistent/api.sock"));
    tokio::spawn(dns::run(client, config, stop.clone()));
    // The TCP listener is bound last: when it accepts, everything is up.
    while TcpStream::connect(free).await.is_err() {
        tokio::task::yield_now().await;
    }
    (free, stop.drop_guard())
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn ask(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn a_name_is_asked_for_once_and_then_known() {
    let upstream = upstream().await;
    let (server, _guard) = server(vec![upstream.address]).await;
    for name in ["a.example.", "A.Example."] {
        let message = ask(server, name).await;
        assert_eq!(message.answers.len(), 1);
        assert_eq!(message.queries[0].name().to_string(), name, "the spelling is the client's");
        assert!(!message.metadata.authoritative && message.metadata.recursion_desired);
    }
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_fetched_whole_and_given_by_tcp() {
    let upstream = upstream().await;
    let (server, _guard) = server(vec![upstream.address]).await;
    let short = ask(server, "big.example.").await;
    assert!(short.metadata.truncation);
    let mut stream = TcpStream::connect(server).await.unwrap();
    let question = question("big.example.");
    // Two questions on one connection.
    for _ in 0..2 {
        stream.write_u16(question.len() as u16).await.unwrap();
        stream.write_all(&question).await.unwrap();
    }
    for _ in 0..2 {
        let length = stream.read_u16().await.unwrap();
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 100);
    }
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_none_at_all_is_a_failure() {
    let upstream = upstream().await;
    // Nothing listens there: the kernel says so at once.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (live, _guard) = server(vec![dead, upstream.address]).await;
    assert_eq!(ask(live, "b.example.").await.answers.len(), 1);
    assert_eq!(ask(live, "nope.example.").await.metadata.response_code, ResponseCode::NXDomain);
    let (none, _other) = server(Vec::new()).await;
    assert_eq!(ask(none, "c.example.").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn the_zone_is_never_asked_of_others_and_not_denied_before_it_is_known() {
    let upstream = upstream().await;
    let (server, _guard) = server(vec![upstream.address]).await;
    let message = ask(server, "web.default.svc.cluster.local.").await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 0);
}
