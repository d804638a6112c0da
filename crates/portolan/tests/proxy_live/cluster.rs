//! An API server that has been told what to answer: lists, watches that go on, Events that are kept.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use netns::NetNs;
use serde_json::{Value, json};

pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub const NODES: &str = "/api/v1/nodes";

#[derive(Clone, Default)]
pub struct Cluster(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// Where each happened, and what a watch says of it.
    log: Vec<(&'static str, Value)>,
    told: Vec<Value>,
}

impl Cluster {
    /// Serves on 127.0.0.1:8080 of a namespace until the process ends.
    pub fn start(namespace: &NetNs) -> Cluster {
        let cluster = Cluster::default();
        let listener = namespace.run(|| TcpListener::bind("127.0.0.1:8080").unwrap()).unwrap();
        let serving = cluster.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cluster = serving.clone();
                // Who asks may have gone.
                std::thread::spawn(move || cluster.answer(stream).unwrap_or_default());
            }
        });
        cluster
    }

    pub fn put(&self, place: &'static str, mut object: Value) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let version = state.log.len() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let known = state.objects.entry(place).or_default().insert(name, object.clone()).is_some();
        let kind = if known { "MODIFIED" } else { "ADDED" };
        state.log.push((place, json!({"type": kind, "object": object})));
        changed.notify_all();
    }

    /// The reasons of all Events.
    pub fn told(&self) -> Vec<String> {
        self.0.0.lock().unwrap().told.iter().map(|event| event["reason"].as_str().unwrap_or("").to_owned()).collect()
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut request = String::new();
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if header.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let target = request.split(' ').nth(1).unwrap_or("").to_owned();
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            if request.starts_with("POST") {
                self.0.0.lock().unwrap().told.extend(serde_json::from_slice::<Value>(&body).ok());
                respond(&mut stream, &body)?;
            } else if query.contains("watch=true") {
                return self.watch(stream, path, query);
            } else {
                respond(&mut stream, self.list(path).to_string().as_bytes())?;
            }
        }
    }

    fn list(&self, path: &str) -> Value {
        let state = self.0.0.lock().unwrap();
        let items: Vec<&Value> = state.objects.get(path).into_iter().flat_map(BTreeMap::values).collect();
        let version = state.log.len().to_string();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items})
    }

    fn watch(&self, mut stream: TcpStream, path: &str, query: &str) -> std::io::Result<()> {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let mut next: usize = from.and_then(|from| from.parse().ok()).unwrap_or(0);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let (state, changed) = &*self.0;
        loop {
            let mut state = state.lock().unwrap();
            while state.log.len() <= next {
                state = changed.wait(state).unwrap();
            }
            let (place, event) = state.log[next].clone();
            drop(state);
            next += 1;
            if place == path {
                let line = format!("{event}\n");
                write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
            }
        }
    }
}

fn respond(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}
