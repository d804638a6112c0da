//! A server outside the cluster: an address of the host, answering HTTP with a name.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Net, slowly};

/// Answers every request with its name until it's dropped.
pub struct Outside {
    net: Net,
    at: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    /// Listens on an address that the network must already have.
    #[track_caller]
    pub fn start(net: &Net, at: &str, name: &str) -> Self {
        let bound = net.namespace().run(|| TcpListener::bind(at)).expect("entering a network namespace");
        let listener = bound.unwrap_or_else(|e| panic!("cannot listen on {at}: {e}"));
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A client that goes away is no failure of the server.
                let _ = stream.and_then(|stream| answer(stream, &name));
            }
        });
        Outside { net: net.clone(), at: at.to_owned(), stop, thread: Some(thread) }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        self.net.get(&self.at, "/");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: std::net::TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(slowly(Duration::from_secs(2))))?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => break,
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len())
}
