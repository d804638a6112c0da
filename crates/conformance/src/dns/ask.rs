//! A question by TCP and its answer as hickory-proto reads it, in an order and a spelling that can be compared.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// A name and a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub name: String,
    pub rr_type: u16,
}

impl Question {
    /// For the addresses of a name.
    pub fn plain(name: &str) -> Self {
        Question { name: name.to_owned(), rr_type: 1 }
    }

    /// The message; names have no escapes.
    fn message(&self, id: u16) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        // Recursion desired, one question, and EDNS.
        bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        for label in self.name.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(self.rr_type.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, RecordType::from(self.rr_type))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reading {
    pub code: ResponseCode,
    pub answers: Vec<String>,
    pub authority: Vec<String>,
    pub additional: Vec<String>,
    /// As it came.
    pub message: Vec<u8>,
}

impl Reading {
    pub fn of(message: Vec<u8>) -> Result<Self> {
        let read = Message::from_vec(&message).context("hickory-proto can't read the answer")?;
        Ok(Reading {
            code: read.metadata.response_code,
            answers: lines(&read.answers),
            authority: lines(&read.authorities),
            additional: lines(&read.additionals),
            message,
        })
    }

    /// Whether the name is said to exist without such a record.
    pub fn no_data(&self) -> bool {
        self.code == ResponseCode::NoError && self.answers.is_empty()
    }

    pub fn denied(&self) -> bool {
        self.code == ResponseCode::NXDomain
    }
}

/// Records without their TTLs and an SOA's serial, sorted.
fn lines(records: &[Record]) -> Vec<String> {
    let mut lines: Vec<String> = records.iter().map(line).collect();
    lines.sort();
    lines
}

fn line(record: &Record) -> String {
    let mut data = record.data.to_string();
    if let RData::SOA(soa) = &record.data {
        data = format!("{} {} {} {} {}", soa.mname, soa.rname, soa.refresh, soa.retry, soa.expire);
    }
    format!("{} {} {data}", record.name, record.record_type()).to_lowercase()
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} | {:?} | {:?}", self.code, self.answers, self.authority, self.additional)
    }
}

/// A connection to a server.
pub struct Asker {
    server: SocketAddr,
    stream: TcpStream,
    asked: u16,
}

impl Asker {
    pub async fn connect(server: SocketAddr) -> Result<Self> {
        Ok(Asker { server, stream: TcpStream::connect(server).await?, asked: 0 })
    }

    pub async fn ask(&mut self, question: &Question) -> Result<Reading> {
        let asking = async {
            self.asked = self.asked.wrapping_add(1);
            match self.exchange(question).await {
                Ok(message) => Ok(message),
                // It may have been idle while the other side was asked.
                Err(_) => {
                    self.stream = TcpStream::connect(self.server).await?;
                    self.exchange(question).await
                }
            }
        };
        let message: Vec<u8> = tokio::time::timeout(PATIENCE, asking)
            .await
            .with_context(|| format!("{} takes its time over {question}", self.server))?
            .with_context(|| format!("asking {} for {question}", self.server))?;
        Reading::of(message).with_context(|| format!("{} about {question}", self.server))
    }

    async fn exchange(&mut self, question: &Question) -> std::io::Result<Vec<u8>> {
        let message = question.message(self.asked);
        let framed = [&(message.len() as u16).to_be_bytes(), message.as_slice()].concat();
        self.stream.write_all(&framed).await?;
        let length = self.stream.read_u16().await?;
        let mut reply = vec![0; usize::from(length)];
        self.stream.read_exact(&mut reply).await?;
        Ok(reply)
    }
}
