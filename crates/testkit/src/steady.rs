//! A connection that is used for as long as a test lasts, to see whether anything cuts it.
//!
//! Not responsible for opening another one when it ends: that would hide what it's for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Net, patience};

const PAUSE: Duration = Duration::from_millis(10);

/// One TCP connection over which a thread asks an HTTP server for its name, again and again.
pub struct Steady {
    name: String,
    over: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Steady {
    /// Connects from a network; the name is for whoever reads that it broke.
    #[track_caller]
    pub fn open(name: &str, from: &Net, to: &str) -> Self {
        let connected = from.namespace().run(|| TcpStream::connect(to)).expect("entering a network namespace");
        let stream = connected.unwrap_or_else(|e| panic!("{name}: cannot connect to {to}: {e}"));
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ends, counts) = (over.clone(), answers.clone());
        let thread = std::thread::spawn(move || ask(&stream, &ends, &counts).map_err(|e| e.to_string()));
        Steady { name: name.to_owned(), over, answers, thread: Some(thread) }
    }

    /// Fails the test if the connection has broken; says how many answers came.
    #[track_caller]
    pub fn holds(&mut self) -> usize {
        let answers = self.answers.load(Ordering::SeqCst);
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            let ended = self.thread.take().map(JoinHandle::join);
            panic!("{}: the connection broke after {answers} answers: {ended:?}", self.name);
        }
        answers
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(stream: &TcpStream, over: &AtomicBool, answers: &AtomicUsize) -> std::io::Result<()> {
    stream.set_read_timeout(Some(patience()))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while !over.load(Ordering::SeqCst) {
        write!(writer, "GET /hostname HTTP/1.1\r\nHost: steady\r\n\r\n")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| std::io::ErrorKind::InvalidData)?;
            }
            if line.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        answers.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
