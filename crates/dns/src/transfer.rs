//! A zone on its way to somebody who may have it: a message at a time (RFC 5936 section 2.2).

use dns_zone::{Config as Zones, Name, Query, Rcode, Record, Response, RrType, Transfer, View, transfer};

/// What one message holds at most; one by TCP could hold 65,535 octets, its header and question included.
const MESSAGE_MAX: usize = 60_000;

/// The messages that are left to send.
pub struct Outgoing {
    query: Query,
    zone_labels: usize,
    records: std::iter::Peekable<Transfer>,
    /// Whoever asks for changes and has the newest gets one SOA (RFC 1995 section 2); others get all of it.
    up_to_date: bool,
}

impl Outgoing {
    pub fn new(query: Query, view: &View, zones: &Zones, zone: &Name) -> Self {
        let up_to_date = query.rr_type == RrType::IXFR && query.serial == Some(view.serial);
        Outgoing { zone_labels: zone.depth(), records: transfer(view, zones, zone).peekable(), up_to_date, query }
    }
}

impl Iterator for Outgoing {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut answers: Vec<Record> = Vec::new();
        let mut octets = 0;
        while let Some(record) = self.records.next_if(|record| octets + record.octets_max() <= MESSAGE_MAX) {
            octets += record.octets_max();
            answers.push(record);
            if self.up_to_date {
                self.records = Transfer::nothing().peekable();
            }
        }
        if answers.is_empty() {
            return None;
        }
        let code = Response::code(Rcode::NoError);
        let response = Response { authoritative: true, answers, zone_labels: self.zone_labels, ..code };
        Some(response.write(&self.query, usize::from(u16::MAX)))
    }
}
