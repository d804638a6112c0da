//! An HTTP proxy (RFC 9110, 9.3.6) that leads every name to one address and remembers what it was asked.
//!
//! Not responsible for asking who it is that asks: it notes what it was shown.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::slowly;

const LONGEST_HEAD: usize = 16 << 10;

/// Runs until it's dropped, in the network it was started in.
pub struct WebProxy {
    address: SocketAddr,
    asked: Asked,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Asked = Arc<Mutex<Vec<String>>>;

impl WebProxy {
    /// `to` is where everything goes; nowhere, and everything is refused.
    pub fn start(to: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let address = listener.local_addr().expect("a bound listener");
        let (asked, stop) = (Asked::default(), Arc::new(AtomicBool::new(false)));
        let (heard, stopped) = (asked.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let heard = heard.clone();
                // Ends with its connection.
                std::thread::spawn(move || serve(stream, to, &heard));
            }
        });
        WebProxy { address, asked, stop, thread: Some(thread) }
    }

    /// As in `HTTPS_PROXY`, with a user.
    pub fn url(&self) -> String {
        format!("http://me:pw@{}", self.address)
    }

    /// What was asked so far: the request's first line, and `Proxy-Authorization` as it came.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for WebProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it; from another network it sleeps on until the process ends.
        if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// A client that goes away is no failure of the proxy.
fn serve(mut client: TcpStream, to: Option<SocketAddr>, asked: &Mutex<Vec<String>>) -> Option<()> {
    client.set_read_timeout(Some(slowly(Duration::from_secs(30)))).ok()?;
    let head = head(&mut client).ok()?;
    let line = head.lines().next()?;
    let shown = head.lines().find(|line| line.to_ascii_lowercase().starts_with("proxy-authorization:"));
    let words = [Some(line), shown].into_iter().flatten().collect::<Vec<_>>().join(" ");
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(words);
    let Some(to) = to else {
        return client.write_all(b"HTTP/1.1 403 Not From Here\r\nContent-Length: 0\r\n\r\n").ok();
    };
    let mut server = TcpStream::connect(to).ok()?;
    match line.starts_with("CONNECT ") {
        true => client.write_all(b"HTTP/1.1 200 Go Ahead\r\n\r\n").ok()?,
        false => server.write_all(head.as_bytes()).ok()?,
    }
    let (from, into) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || pass_on(from, into));
    pass_on(server, client)
}

fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) -> Option<()> {
    io::copy(&mut from, &mut to).ok()?;
    to.shutdown(Shutdown::Write).ok()
}
