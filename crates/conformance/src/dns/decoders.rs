//! What two implementations of the protocol, neither of them ours, read in the same bytes: hickory-proto and dnspython.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use hickory_proto::op::Message;
use hickory_proto::rr::Record;

/// Reads messages in hexadecimal and prints what is in each on a line.
const SCRIPT: &str = include_str!("../../scripts/decode_dns.py");

/// The messages that they read differently, as both of them tell it.
pub fn agree(messages: &[Vec<u8>]) -> Result<Vec<String>> {
    let mut lines = String::new();
    for message in messages {
        message.iter().for_each(|octet| lines.push_str(&format!("{octet:02x}")));
        lines.push('\n');
    }
    // Debian's own: the package is for no other.
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().context("starting /usr/bin/python3")?;
    let mut input = child.stdin.take().context("a pipe to python3")?;
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().context("waiting for python3")?;
    writer.join().ok().context("the thread that feeds python3")?.context("feeding python3")?;
    ensure!(output.status.success(), "dnspython ended with {} (Debian's package is python3-dnspython)", output.status);
    let theirs = String::from_utf8(output.stdout).context("what dnspython said")?;
    ensure!(theirs.lines().count() == messages.len(), "dnspython answered another number of lines");
    let mut differ = Vec::new();
    for (message, dnspython) in messages.iter().zip(theirs.lines()) {
        let hickory = told(&Message::from_vec(message).context("reading an answer")?);
        if hickory != dnspython {
            differ.push(format!("hickory   {hickory}\ndnspython {dnspython}"));
        }
    }
    Ok(differ)
}

/// A message in words: the script's are the same.
fn told(message: &Message) -> String {
    let data = &message.metadata;
    let question = message.queries.iter().map(|q| format!("{} {}", q.name(), u16::from(q.query_type())));
    let flags = [data.authoritative, data.truncation, data.recursion_desired, data.recursion_available];
    let flags: String = flags.iter().map(|flag| if *flag { '1' } else { '0' }).collect();
    let mut parts = vec![format!("{} {} {flags}", data.id, u16::from(data.response_code))];
    parts.extend(question);
    for section in [&message.answers, &message.authorities, &message.additionals] {
        parts.push("--".to_owned());
        parts.extend(section.iter().map(record));
    }
    let edns = message.edns.as_ref();
    parts.push(edns.map_or_else(|| "none".to_owned(), |e| format!("edns {} {}", e.version(), e.max_payload())));
    parts.join("|")
}

fn record(record: &Record) -> String {
    let data = record.data.to_string().replace('"', "");
    format!("{} {} {} {data}", record.name, record.ttl, u16::from(record.record_type()))
}
