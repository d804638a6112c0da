//! `portolan dns check`: reads a Corefile as CoreDNS would, and says what it means. Not responsible for doing it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use ::corefile::{Corefile, Listener, Sources, Transport};
use anyhow::{Context, Result};
use serde_json::json;

use crate::cli::{Dns, Output};

pub fn run(command: &Dns) -> Result<ExitCode> {
    match command {
        Dns::Check { file, port, output } => check(file, *port, *output),
    }
}

fn check(file: &Path, port: u16, output: Output) -> Result<ExitCode> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    let corefile = match ::corefile::parse(&file.to_string_lossy(), &String::from_utf8_lossy(&bytes), &Machine, port) {
        Ok(corefile) => corefile,
        Err(problems) => {
            problems.0.iter().for_each(|problem| eprintln!("{problem}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    let printed = match output {
        Output::Text => text(&corefile)?,
        Output::Json => {
            let warnings: Vec<String> = corefile.warnings.iter().map(ToString::to_string).collect();
            let all = json!({
                "listeners": corefile.listeners(), "servers": corefile.servers, "warnings": warnings,
            });
            format!("{}\n", serde_json::to_string_pretty(&all).context("cannot print it")?)
        }
    };
    corefile.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    io::stdout().write_all(printed.as_bytes()).context("cannot print it")?;
    Ok(ExitCode::SUCCESS)
}

/// For a person: what listens, then each server block with everything that it leaves to defaults.
fn text(corefile: &Corefile) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for listener in corefile.listeners() {
        writeln!(text, "listens on {}", place(&listener))?;
        for served in &listener.zones {
            let line = corefile.servers.get(served.server).map_or(0, |server| server.line);
            writeln!(text, "    {:<40} server block of line {line}", served.zone.to_string())?;
        }
    }
    for server in &corefile.servers {
        let zones: Vec<String> = server.keys.iter().map(|key| key.zone.to_string()).collect();
        writeln!(text, "\nserver block of line {}, for {}", server.line, zones.join(" "))?;
        for stanza in server.plugins.iter().flat_map(::corefile::plugin::Plugin::stanzas) {
            write!(text, "{stanza}")?;
        }
        if server.plugins.is_empty() {
            writeln!(text, "    no plugins: every query is refused")?;
        }
    }
    if corefile.servers.is_empty() {
        writeln!(text, "no server block: nothing listens")?;
    }
    Ok(text)
}

fn place(listener: &Listener) -> String {
    let host = match &listener.host {
        None => "all addresses".to_owned(),
        Some(host) if ::corefile::plugin::bind::Bind::is_device(host) => format!("the addresses of {host}"),
        Some(host) => host.clone(),
    };
    let way = match listener.transport {
        Transport::Dns => "UDP and TCP",
        Transport::Tls => "DNS over TLS",
        Transport::Quic => "DNS over QUIC",
        Transport::Grpc => "DNS over gRPC",
        Transport::Https => "DNS over HTTPS",
        Transport::Https3 => "DNS over HTTP/3",
        Transport::Unix => "a socket of the file system",
    };
    format!("{host}, port {}, {way}", listener.port)
}

/// The environment and files of this machine.
struct Machine;

impl Sources for Machine {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }
}
