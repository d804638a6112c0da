//! A container's output as CRI log lines: `RFC3339Nano stdout|stderr F|P text`. A line longer than 16 KiB, and the end
//! of the output without a newline, become partial (`P`) lines.
//!
//! Not responsible for reading pipes, nor for rotating files.

use std::io::Write as _;

use jiff::Timestamp;

/// What kubelet's reader and the common runtimes take as a line's most.
const LONGEST: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Cuts one stream into lines.
#[derive(Debug)]
pub(crate) struct LogPump {
    stream: Stream,
    pending: Vec<u8>,
}

impl LogPump {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Takes what the container wrote and appends the complete log lines to `out`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = LONGEST - self.pending.len();
            match bytes.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.pending.extend_from_slice(&bytes[..end]);
                    self.emit('F', now, out);
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() >= room => {
                    self.pending.extend_from_slice(&bytes[..room]);
                    self.emit('P', now, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.pending.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// The stream has ended: what has no newline yet is a partial line.
    pub(crate) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.emit('P', now, out);
        }
    }

    fn emit(&mut self, tag: char, now: Timestamp, out: &mut Vec<u8>) {
        let stream = match self.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        write!(out, "{now:.9} {stream} {tag} ").expect("writing to memory succeeds");
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[&[u8]]) -> Vec<String> {
        let now = Timestamp::new(1_700_000_000, 5).unwrap();
        let (mut pump, mut out) = (LogPump::new(Stream::Stderr), Vec::new());
        for bytes in writes {
            pump.feed(bytes, now, &mut out);
        }
        pump.finish(now, &mut out);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_cut_at_newlines_across_writes() {
        let head = "2023-11-14T22:13:20.000000005Z stderr";
        assert_eq!(
            lines(&[b"one\ntw", b"o\n\nthree"]),
            [format!("{head} F one"), format!("{head} F two"), format!("{head} F "), format!("{head} P three"),]
        );
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let long = vec![b'x'; LONGEST + 10];
        let got = lines(&[&long, b"\n"]);
        let texts: Vec<(&str, usize)> = got.iter().map(|l| (&l[38..39], l.len() - 40)).collect();
        assert_eq!(texts, [("P", LONGEST), ("F", 10)]);
    }
}
