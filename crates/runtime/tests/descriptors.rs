//! A server in a process that has no file descriptors left. Alone in its file, since the limit is the whole process's.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Seek};
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

/// What the thread has computed so far, by proc(5).
fn computed(statistics: &mut File) -> Duration {
    let mut text = String::new();
    statistics.rewind().unwrap();
    statistics.read_to_string(&mut text).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn it_waits_for_descriptors_without_spinning() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let serving =
        tokio::spawn(runtime::probes::serve(listener, stop.clone(), |_| Response::new(Full::from("well".to_owned()))));
    let mut statistics = File::open("/proc/thread-self/schedstat").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let before = computed(&mut statistics);
    // A loop that never rests takes all of it, or of what others leave it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let took = computed(&mut statistics) - before;
    assert!(took < Duration::from_millis(200), "{took:?}");
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("well"), "{text}");
    stop.cancel();
    serving.await.unwrap();
}
