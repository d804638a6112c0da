//! What a benchmark found: rows of figures with their peer and their bar, as a table for a person or as JSON.
#![allow(clippy::print_stdout, reason = "the report is what a benchmark prints")]

use std::fs;

use anyhow::Result;
use serde::Serialize;

/// All that one run has to say.
#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// Where and under what load it ran.
#[derive(Serialize)]
struct Machine {
    processors: usize,
    kernel: String,
    load_before: f64,
    load_after: f64,
}

/// One figure.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub ours: Option<f64>,
    /// How far the rounds were apart, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    pub peer: Option<f64>,
    /// The peer's figure through ours.
    pub ratio: Option<f64>,
    pub bar: Option<Bar>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bar {
    AtMost(f64),
    /// Of the ratio.
    Times(f64),
}

impl Row {
    pub fn new(what: impl Into<String>, unit: &'static str, ours: Option<f64>) -> Row {
        Row { what: what.into(), unit, ours, ..Row::default() }
    }

    pub fn spread(mut self, low: Option<f64>, high: Option<f64>) -> Row {
        self.spread = low.zip(high).map(|(low, high)| format!("{}…{}", shown(low), shown(high)));
        self
    }

    pub fn peer(mut self, peer: Option<f64>) -> Row {
        self.peer = peer;
        self.ratio = self.ours.zip(peer).filter(|(ours, _)| *ours > 0.0).map(|(ours, peer)| peer / ours);
        self
    }

    pub fn at_most(mut self, bar: f64) -> Row {
        self.bar = Some(Bar::AtMost(bar));
        self
    }

    pub fn times(mut self, bar: f64) -> Row {
        self.bar = Some(Bar::Times(bar));
        self
    }

    fn verdict(&self) -> &'static str {
        let held = match self.bar {
            None => return "",
            Some(Bar::AtMost(bar)) => self.ours.map(|ours| ours <= bar),
            Some(Bar::Times(bar)) => self.ratio.map(|ratio| ratio >= bar),
        };
        match held {
            Some(true) => "held",
            Some(false) => "MISSED",
            None => "not measured",
        }
    }

    fn cells(&self) -> [String; 7] {
        let number = |value: Option<f64>| value.map(shown).unwrap_or_default();
        let bar = match self.bar {
            None => String::new(),
            Some(Bar::AtMost(bar)) => format!("≤ {}", shown(bar)),
            Some(Bar::Times(bar)) => format!("≥ {}×", shown(bar)),
        };
        let ours = self.ours.map(|ours| format!("{} {}", shown(ours), self.unit)).unwrap_or_default();
        let ratio = self.ratio.map(|ratio| format!("{}×", shown(ratio))).unwrap_or_default();
        let spread = self.spread.clone().unwrap_or_default();
        [self.what.clone(), ours, spread, number(self.peer), ratio, bar, self.verdict().to_owned()]
    }
}

impl Report {
    pub fn new() -> Report {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let machine = Machine { processors, kernel, load_before: load(), load_after: 0.0 };
        Report { machine, rows: Vec::new(), notes: Vec::new() }
    }

    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn print_table(&mut self) {
        self.machine.load_after = load();
        let head = ["what", "ours", "rounds", "peer", "ratio", "bar", ""].map(str::to_owned);
        let lines: Vec<[String; 7]> = std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..7).map(width).collect();
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            println!("{}", cells.join("  ").trim_end());
        }
        for note in &self.notes {
            println!("\n{note}");
        }
        let Machine { processors, kernel, load_before, load_after } = &self.machine;
        println!("\n{processors} processors, Linux {kernel}, load {load_before:.1} before and {load_after:.1} after");
    }

    pub fn print_json(&mut self) -> Result<()> {
        self.machine.load_after = load();
        println!("{}", serde_json::to_string_pretty(self)?);
        Ok(())
    }
}

/// The load average of the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// A number with about three digits that mean something.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_held_or_missed_or_not_measured() {
        let row = |ours| Row::new("x", "ms", ours).at_most(5.0);
        assert_eq!(
            [row(Some(5.0)), row(Some(5.1)), row(None)].map(|r| r.verdict()),
            ["held", "MISSED", "not measured"]
        );
        let ratio = |peer| Row::new("x", "ms", Some(2.0)).peer(peer).times(15.0);
        assert_eq!(
            [ratio(Some(30.0)), ratio(Some(29.0)), ratio(None)].map(|r| r.verdict()),
            ["held", "MISSED", "not measured"]
        );
    }
}
