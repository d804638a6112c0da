//! A rule as the tools write it: what stands behind `-A CHAIN`. In the order and with the quoting of `iptables-save`, so
//! that what we feed and what an operator lists look alike.

use std::fmt;
use std::net::SocketAddr;

use crate::rule::{Chance, Match, Recent, Reject, Rule, States, Target, Test};

/// Protocols by the names that all versions of the tools know.
pub(crate) const PROTOCOLS: [(u8, &str); 3] = [(6, "tcp"), (17, "udp"), (132, "sctp")];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Words { f, first: true };
        for (option, test) in [("-s", &self.source), ("-d", &self.destination)] {
            if let Some(Test { negated, value }) = test {
                words.word(format_args!("{}{option} {value}", not(*negated)))?;
            }
        }
        if let Some(Test { negated, value }) = &self.input {
            words.word(format_args!("{}-i {value}", not(*negated)))?;
        }
        if let Some(protocol) = self.protocol {
            words.word(format_args!("-p {}", Protocol(protocol)))?;
        }
        for one in &self.matches {
            words.word(format_args!("{}", Written { one, rule: self }))?;
        }
        match &self.target {
            Some(target) => words.word(format_args!("-j {target}")),
            None => Ok(()),
        }
    }
}

/// Things with a space between them.
struct Words<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    first: bool,
}

impl Words<'_, '_> {
    fn word(&mut self, word: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.f.write_str(" ")?;
        }
        self.f.write_fmt(word)
    }
}

struct Protocol(u8);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

struct Written<'a> {
    one: &'a Match,
    rule: &'a Rule,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.one {
            Match::Comment(text) => write!(f, "-m comment --comment {}", Quoted(text)),
            Match::SourceIsLocal => f.write_str("-m addrtype --src-type LOCAL"),
            Match::DestinationIsLocal => f.write_str("-m addrtype --dst-type LOCAL"),
            Match::DestinationPort(port) => {
                write!(f, "-m {} --dport {port}", Protocol(self.rule.protocol.unwrap_or_default()))
            }
            Match::State(Test { negated, value }) => write!(f, "-m conntrack {}--ctstate {value}", not(*negated)),
            Match::Mark { negated, value, mask } => write!(f, "-m mark {}--mark {value:#x}/{mask:#x}", not(*negated)),
            Match::Recent { name, action: Recent::Remember } => write!(f, "-m recent --set --name {}", Quoted(name)),
            Match::Recent { name, action: Recent::Within { seconds } } => {
                write!(f, "-m recent --rcheck --seconds {seconds} --reap --name {}", Quoted(name))
            }
            Match::Chance(chance) => write!(f, "-m statistic --mode random --probability {chance}"),
        }
    }
}

/// In quotes if it needs any, which is when the tools would use them.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' | '\'' => write!(f, "\\{c}")?,
                // One line is one rule.
                '\n' | '\r' => f.write_str(" ")?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (state, name) in States::NAMED {
            if self.contains(state) {
                write!(f, "{comma}{name}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Eleven digits tell any two of the kernel's 2^31 values apart.
        write!(f, "{:.11}", f64::from(self.0) / Chance::WHOLE as f64)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Jump(chain) => f.write_str(chain),
            Target::Accept => f.write_str("ACCEPT"),
            Target::Drop => f.write_str("DROP"),
            Target::Return => f.write_str("RETURN"),
            Target::Reject(Reject::TcpReset) => f.write_str("REJECT --reject-with tcp-reset"),
            // What is meant without an option, in either family.
            Target::Reject(Reject::PortUnreachable) => f.write_str("REJECT"),
            Target::SetMark { value, mask } => write!(f, "MARK --set-xmark {value:#x}/{mask:#x}"),
            Target::Dnat(SocketAddr::V4(to)) => write!(f, "DNAT --to-destination {to}"),
            Target::Dnat(SocketAddr::V6(to)) => write!(f, "DNAT --to-destination [{}]:{}", to.ip(), to.port()),
            Target::Masquerade { fully_random } => {
                write!(f, "MASQUERADE{}", if *fully_random { " --random-fully" } else { "" })
            }
        }
    }
}
