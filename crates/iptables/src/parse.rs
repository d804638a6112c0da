//! Rules from the text of `iptables-save`. What is not modelled is no error: the rule is somebody else's, and stays text.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::rule::{Chance, Match, Recent, Reject, Rule, States, Target, Test};
use crate::text::PROTOCOLS;

impl Rule {
    /// Reads what stands behind `-A CHAIN`; `None` if anything in it is not modelled.
    pub fn parse(spec: &str) -> Option<Rule> {
        let words = words(spec)?;
        let mut reader = Reader { words: &words, rule: Rule::new(), module: String::new(), recent: None };
        while let Some(word) = reader.next() {
            reader.option(&word)?;
        }
        reader.finish()
    }
}

/// The chain or target a rule leads to, modelled or not.
pub fn target_of(spec: &str) -> Option<String> {
    let words = words(spec)?;
    let at = words.iter().position(|word| matches!(word.as_str(), "-j" | "-g" | "--jump" | "--goto"))?;
    words.get(at + 1).cloned()
}

/// A rule's comment, modelled or not.
pub fn comment_of(spec: &str) -> Option<String> {
    let words = words(spec)?;
    let at = words.iter().position(|word| word == "--comment")?;
    words.get(at + 1).cloned()
}

/// Splits at spaces, but not inside quotes; `None` if a quote is not closed.
pub(crate) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(chars.next()?),
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

struct Reader<'a> {
    words: &'a [String],
    rule: Rule,
    /// The match whose options are being read.
    module: String,
    recent: Option<RecentParts>,
}

#[derive(Default)]
struct RecentParts {
    name: Option<String>,
    set: bool,
    rcheck: bool,
    seconds: Option<u32>,
    reap: bool,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<String> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first.clone())
    }

    fn option(&mut self, word: &str) -> Option<()> {
        let (negated, word) = if word == "!" { (true, self.next()?) } else { (false, word.to_owned()) };
        match word.as_str() {
            "-s" | "-d" => {
                let test = Test::within(negated, network(&self.next()?)?);
                *(if word == "-s" { &mut self.rule.source } else { &mut self.rule.destination }) = test;
            }
            "-i" => self.rule.input = Some(Test { negated, value: self.next()?.into() }),
            "--ctstate" if self.module == "conntrack" => {
                let value = states(&self.next()?)?;
                self.add(Match::State(Test { negated, value }));
            }
            "--mark" if self.module == "mark" => {
                let (value, mask) = bits(&self.next()?)?;
                self.add(Match::Mark { negated, value, mask });
            }
            _ if negated => return None,
            "-p" => self.rule.protocol = Some(protocol(&self.next()?)?),
            "-m" => {
                self.finish_recent()?;
                self.module = self.next()?;
                if self.module == "recent" {
                    self.recent = Some(RecentParts::default());
                }
            }
            "-j" => {
                let name = self.next()?;
                self.target(&name)?;
            }
            option => self.of_module(option)?,
        }
        Some(())
    }

    fn of_module(&mut self, option: &str) -> Option<()> {
        match (self.module.as_str(), option) {
            ("comment", "--comment") => {
                let text = self.next()?.into_boxed_str();
                self.add(Match::Comment(text));
            }
            ("tcp" | "udp" | "sctp", "--dport") => {
                let port = self.next()?.parse().ok()?;
                self.add(Match::DestinationPort(port));
            }
            ("addrtype", "--src-type") => {
                (self.next()? == "LOCAL").then_some(())?;
                self.add(Match::SourceIsLocal);
            }
            ("addrtype", "--dst-type") => {
                (self.next()? == "LOCAL").then_some(())?;
                self.add(Match::DestinationIsLocal);
            }
            ("statistic", "--mode") => (self.next()? == "random").then_some(())?,
            ("statistic", "--probability") => {
                let chance: f64 = self.next()?.parse().ok()?;
                (0.0..=1.0).contains(&chance).then_some(())?;
                // As the tool does it; the range was looked at.
                self.add(Match::Chance(Chance((chance * Chance::WHOLE as f64).round() as u32)));
            }
            ("recent", option) => self.of_recent(option)?,
            _ => return None,
        }
        Some(())
    }

    fn of_recent(&mut self, option: &str) -> Option<()> {
        let value = match option {
            "--name" | "--mask" | "--seconds" => self.next()?,
            _ => String::new(),
        };
        let parts = self.recent.as_mut()?;
        match option {
            "--name" => parts.name = Some(value),
            "--set" => parts.set = true,
            "--rcheck" => parts.rcheck = true,
            "--reap" => parts.reap = true,
            "--seconds" => parts.seconds = Some(value.parse().ok()?),
            "--rsource" => {}
            // The whole address, which is what is meant without.
            "--mask" if value == "255.255.255.255" || value == "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" => {}
            _ => return None,
        }
        Some(())
    }

    fn finish_recent(&mut self) -> Option<()> {
        let Some(parts) = self.recent.take() else { return Some(()) };
        let action = match parts {
            RecentParts { set: true, rcheck: false, seconds: None, reap: false, .. } => Recent::Remember,
            RecentParts { set: false, rcheck: true, seconds: Some(seconds), reap: true, .. } => {
                Recent::Within { seconds }
            }
            _ => return None,
        };
        self.add(Match::Recent { name: Arc::from(parts.name?), action });
        Some(())
    }

    fn target(&mut self, name: &str) -> Option<()> {
        self.finish_recent()?;
        let target = match name {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "REJECT" => Target::Reject(match self.next().as_deref() {
                None => Reject::PortUnreachable,
                Some("--reject-with") => match self.next()?.as_str() {
                    "tcp-reset" => Reject::TcpReset,
                    "icmp-port-unreachable" | "icmp6-port-unreachable" => Reject::PortUnreachable,
                    _ => return None,
                },
                Some(_) => return None,
            }),
            "MARK" => {
                (self.next()? == "--set-xmark").then_some(())?;
                let (value, mask) = bits(&self.next()?)?;
                Target::SetMark { value, mask }
            }
            "DNAT" => {
                (self.next()? == "--to-destination").then_some(())?;
                Target::Dnat(self.next()?.parse::<SocketAddr>().ok()?)
            }
            "MASQUERADE" => match self.next().as_deref() {
                None => Target::Masquerade { fully_random: false },
                Some("--random-fully") => Target::Masquerade { fully_random: true },
                Some(_) => return None,
            },
            // Other targets of the tools have names like these and options of their own; chains have none.
            chain => Target::Jump(Arc::from(chain)),
        };
        self.rule.target = Some(target);
        self.words.is_empty().then_some(())
    }

    fn add(&mut self, one: Match) {
        self.rule = std::mem::take(&mut self.rule).with(one);
    }

    fn finish(mut self) -> Option<Rule> {
        self.finish_recent()?;
        let port = self.rule.matches.iter().any(|one| matches!(one, Match::DestinationPort(_)));
        (!port || self.rule.protocol.is_some()).then_some(self.rule)
    }
}

fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

fn protocol(text: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(_, name)| *name == text);
    named.map(|(number, _)| *number).or_else(|| text.parse().ok())
}

fn states(text: &str) -> Option<States> {
    text.split(',').try_fold(States(0), |all, name| {
        let (state, _) = States::NAMED.iter().find(|(_, known)| *known == name)?;
        Some(all.and(*state))
    })
}

/// A value and a mask; all bits if there is none.
fn bits(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let list: Arc<str> = Arc::from("LIST-A");
        let rules = [
            Rule::new(),
            Rule::new()
                .source(net("10.0.0.0/8"))
                .not_destination(net("127.0.0.0/8"))
                .destination_is_local()
                .jump("A-CHAIN"),
            Rule::new().comment("it's \"quoted\" \\ twice").port(6, 80).then(Target::Reject(Reject::TcpReset)),
            Rule::new().destination_address("fd00::1".parse().unwrap()).port(132, 9).then(Target::Drop),
            Rule::new().comment("plain").protocol(17).then(Target::Reject(Reject::PortUnreachable)),
            Rule::new().state(States::NEW).not_state(States::DNAT.and(States::RELATED)).then(Target::Accept),
            Rule::new().not_mark(0x4000, 0x4000).then(Target::Return),
            Rule::new().then(Target::SetMark { value: 0x4000, mask: 0 }),
            Rule::new().recent(&list, Recent::Within { seconds: 9 }).jump("B"),
            Rule::new().recent(&list, Recent::Remember).protocol(6).then(Target::Dnat("[fd00::2]:80".parse().unwrap())),
            Rule::new().source_is_local().then(Target::Masquerade { fully_random: true }),
            Rule::new().input("cni0").protocol(6).then(Target::Return),
            Rule::new().source(net("10.0.0.0/8")).not_input("veth+").jump("D"),
        ];
        for rule in rules {
            assert_eq!(Rule::parse(&rule.to_string()), Some(rule.clone()), "{rule}");
        }
        for count in (1..100).chain([255, 1_000, 99_999]) {
            let rule = Rule::new().chance(Chance::one_in(count)).jump("C");
            assert_eq!(Rule::parse(&rule.to_string()), Some(rule), "one in {count}");
        }
    }

    #[test]
    fn the_order_of_matches_is_no_difference() {
        let one = Rule::parse("-p tcp -m comment --comment a -m tcp --dport 80 -j X");
        assert!(one.is_some());
        assert_eq!(one, Rule::parse("-p tcp -m tcp --dport 80 -m comment --comment \"a\" -j X"));
    }

    #[test]
    fn an_address_that_everybody_has_is_no_test() {
        for (nowhere, family) in [("0.0.0.0/0", "10.0.0.0/8"), ("::/0", "fd00::/8")] {
            let everybody = Rule::new().source(net(nowhere)).destination(net(nowhere)).jump("X");
            assert_eq!(everybody, Rule::new().jump("X"));
            assert_eq!(Rule::parse(&format!("-s {nowhere} -d {nowhere} -j X")), Some(everybody));
            for rule in [Rule::new().not_source(net(nowhere)), Rule::new().not_destination(net(nowhere))] {
                assert!(rule.is_impossible(), "{rule}");
            }
            assert!(!Rule::new().not_source(net(family)).is_impossible());
        }
    }

    #[test]
    fn what_is_not_modelled_is_somebody_elses() {
        for spec in [
            "-o eth0 -j ACCEPT",
            "! -p tcp -j DROP",
            "-m set --match-set x src -j DROP",
            "-p tcp -m tcp --dport 80:90 -j X",
            "-p tcp -m tcp --sport 80 -j X",
            "-g CHAIN",
            "-j LOG --log-prefix \"a b\"",
            "-j REJECT --reject-with icmp-host-prohibited",
            "-m recent --update --seconds 5 --name x --mask 255.255.255.255 --rsource -j X",
            "-m recent --rcheck --seconds 5 --reap --name x --mask 255.255.255.0 --rsource -j X",
            "-m comment --comment \"open",
            "-m tcp --dport 80 -j X",
            "-s nonsense -j X",
            "!",
        ] {
            assert_eq!(Rule::parse(spec), None, "{spec}");
        }
        assert_eq!(target_of("-m set --match-set x src -g A-CHAIN").as_deref(), Some("A-CHAIN"));
        assert_eq!(target_of("-i eth0"), None);
        assert_eq!(comment_of("-i eth0 -m comment --comment \"a b\" -j X").as_deref(), Some("a b"));
        assert_eq!(comment_of("-i eth0 -j X"), None);
    }
}
