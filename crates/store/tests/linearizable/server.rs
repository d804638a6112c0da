//! The store behind a unix socket, one request a line. Not responsible for its end: it is killed.

use std::path::Path;
use std::sync::Arc;

use store::{Compare, Embedded, Entry, Op, Options, Outcome, Range, Revision, Store, Txn};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::checker::{Answer, Request};

pub fn run(directory: &Path) {
    let store = Arc::new(Embedded::open(&directory.join("state.db"), Options::default()).expect("opening"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = directory.join("socket");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(socket).expect("a socket");
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(store.clone(), stream));
        }
    });
}

async fn serve(store: Arc<Embedded>, stream: UnixStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
        let request = Request::parse(line.trim_end()).expect("a request");
        let answer = answer(&store, request).await;
        if stream.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}

async fn answer(store: &Embedded, request: Request) -> Answer {
    let put = |key: &str, value: String, compares| Txn { compares, ops: vec![Op::put(key, value)] };
    let txn = match request {
        Request::Get { key } => return Answer::Entry(store.get(&key).await.unwrap().as_ref().map(seen)),
        Request::List => {
            let found = store.range(Range::default()).await.unwrap();
            let entries = found.entries.iter().map(|e| (e.key.to_string(), seen(e))).collect();
            return Answer::List { revision: found.revision.0, entries };
        }
        Request::Put { key, value } => put(&key, value, vec![]),
        Request::Create { key, value } => put(&key, value, vec![Compare::Absent(key.as_str().into())]),
        Request::Swap { key, revision, value } => {
            put(&key, value, vec![Compare::Modified(key.as_str().into(), Revision(revision))])
        }
        Request::Delete { key } => Txn { compares: vec![], ops: vec![Op::delete(key)] },
    };
    match store.txn(txn).await.expect("a healthy disk") {
        Outcome::Committed(revision) => Answer::Committed(revision.0),
        Outcome::Conflict { current, .. } => Answer::Conflict(current.as_ref().map(seen)),
    }
}

fn seen(entry: &Entry) -> (i64, String) {
    (entry.modified.0, String::from_utf8(entry.value.to_vec()).unwrap())
}
