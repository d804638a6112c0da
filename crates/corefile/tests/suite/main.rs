//! Corefiles as people write them, and as nobody should.

mod defaults;
mod language;
mod mistakes;
mod options;
mod round;

use corefile::{Corefile, Fixed, Problems, ServerBlock, parse};

/// A machine with few files.
fn machine() -> Fixed {
    Fixed::default()
        .file("/etc/resolv.conf", "search a.example b.example\nnameserver 192.0.2.1\nnameserver 2001:db8::1%eth0\n")
        .file("/etc/coredns/NodeHosts", "")
        .file("/etc/hosts", "")
        .file("/empty.conf", "# nobody\n")
        .file("db", "")
        .file("/srv/db", "")
        .file("/tls/cert.pem", "")
        .file("/tls/key.pem", "")
        .file("/tls/ca.pem", "")
        .variable("DOMAIN", "cluster.example")
        .variable("TWO", "first second")
        .variable("NESTED", "{$DOMAIN}")
        .variable("ITSELF", "{$ITSELF}{$ITSELF}")
}

fn read_on(machine: &Fixed, text: &str) -> Result<Corefile, Problems> {
    parse("/conf/Corefile", text, machine, 53)
}

#[track_caller]
fn read(text: &str) -> Corefile {
    read_on(&machine(), text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

/// The first server block of a Corefile that has this as its whole body.
#[track_caller]
fn block(body: &str) -> ServerBlock {
    read(&format!("cluster.example:53 in-addr.arpa {{\n{body}\n}}\n")).servers.remove(0)
}

/// What is wrong, one a line.
#[track_caller]
fn wrong(text: &str) -> Vec<String> {
    match read_on(&machine(), text) {
        Ok(corefile) => panic!("{text}\nis read as\n{corefile}"),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}

fn names(server: &ServerBlock) -> Vec<&'static str> {
    server.plugins.iter().map(corefile::plugin::Plugin::name).collect()
}
