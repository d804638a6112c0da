//! `cache [TTL] [ZONES…] { … }`: answers are kept, up to 10000 with and as many without records, for 3600 and 1800 seconds
//! at the most and 5 at the least. Options: `success` and `denial CAPACITY [TTL [MINTTL]]` in seconds,
//! `prefetch AMOUNT [DURATION [PERCENT%]]` (off; 1m, 10 of 10 to 90), `serve_stale [DURATION [immediate|verify …]]` (off; 1h),
//! `serve_stale_policy prefer_positive`, `servfail DURATION` (5s, up to 5m), `disable success|denial [ZONES…]`, `keepttl`.

use serde::Serialize;

use super::Settings;
use crate::problem::Fault;
use crate::reader::{Reader, Set};
use crate::token::Token;
use crate::{GoDuration, Stanza, Zone};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    pub zones: Vec<Zone>,
    pub success: Kept,
    pub denial: Kept,
    pub prefetch: Prefetch,
    pub serve_stale: Option<Stale>,
    /// How long a failure is kept.
    pub servfail: GoDuration,
    /// Answers keep the TTL that they came with.
    pub keepttl: bool,
    /// Below which nothing is kept.
    pub disable_success: Vec<Zone>,
    pub disable_denial: Vec<Zone>,
}

/// What is kept of answers of one kind. Times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub capacity: i64,
    pub ttl: i64,
    pub minimum_ttl: i64,
}

/// Names that were asked for `amount` times with no pause longer than `duration` are asked for again when so much of their
/// time is left; never if the amount is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Prefetch {
    pub amount: i64,
    pub duration: GoDuration,
    pub percentage: i64,
}

/// Answers whose time is over, served when there is no newer one (RFC 8767).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stale {
    pub duration: GoDuration,
    /// Ask first, and wait so long, or until the upstream's own limit if that is 0.
    pub verify: Option<GoDuration>,
    /// What clients are told, 0 by default.
    pub ttl: GoDuration,
    /// The pause between attempts to get a newer one.
    pub recheck: GoDuration,
    pub prefer_positive: bool,
}

#[rustfmt::skip]
const OPTIONS: &[&str] =
    &["success", "denial", "prefetch", "serve_stale", "serve_stale_policy", "servfail", "disable", "keepttl"];
const FIVE_MINUTES: GoDuration = GoDuration::from_secs(300);

impl Settings for Cache {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut cache = Cache {
            zones: Vec::new(),
            success: Kept { capacity: 10_000, ttl: 3600, minimum_ttl: 5 },
            denial: Kept { capacity: 10_000, ttl: 1800, minimum_ttl: 5 },
            prefetch: Prefetch { amount: 0, duration: GoDuration::from_secs(60), percentage: 10 },
            serve_stale: None,
            servfail: GoDuration::from_secs(5),
            keepttl: false,
            disable_success: Vec::new(),
            disable_denial: Vec::new(),
        };
        while reader.only_stanza() {
            let mut arguments = reader.arguments();
            if let Some(first) = arguments.first().copied()
                && first.text.parse::<i64>().is_ok()
            {
                if let Some(ttl) = reader.number(first, 1..=i64::MAX) {
                    (cache.success.ttl, cache.denial.ttl) = (ttl, ttl);
                }
                arguments.remove(0);
            }
            cache.zones = reader.zones_or_block(&arguments);
            options(reader, &mut cache);
        }
        cache
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let kept = |kept: &Kept| [kept.capacity, kept.ttl, kept.minimum_ttl];
        let Prefetch { amount, duration, percentage } = &self.prefetch;
        let mut stanza = Stanza::new("cache").with_all(&self.zones);
        stanza = stanza.line("success", kept(&self.success)).line("denial", kept(&self.denial));
        stanza = stanza.line("prefetch", [amount.to_string(), duration.to_string(), format!("{percentage}%")]);
        if let Some(stale) = &self.serve_stale {
            let mut words = vec![stale.duration.to_string()];
            match stale.verify {
                Some(timeout) => words.extend(["verify".to_owned(), timeout.to_string()]),
                None => words.push("immediate".to_owned()),
            }
            words.extend([stale.ttl.to_string(), stale.recheck.to_string()]);
            stanza = stanza.line("serve_stale", words);
            stanza = stanza.maybe("serve_stale_policy", stale.prefer_positive.then_some("prefer_positive"));
        }
        stanza = stanza.option("servfail", self.servfail).flag("keepttl", self.keepttl);
        for (kind, zones) in [("success", &self.disable_success), ("denial", &self.disable_denial)] {
            if !zones.is_empty() {
                stanza = stanza.line("disable", std::iter::once(kind).chain(zones.iter().map(Zone::as_str)));
            }
        }
        vec![stanza]
    }
}

fn options(reader: &mut Reader<'_>, cache: &mut Cache) {
    let mut policy: Option<&Token> = None;
    while let Some(option) = reader.option() {
        match option.text.as_str() {
            "success" => kept(reader, &mut cache.success),
            "denial" => kept(reader, &mut cache.denial),
            "prefetch" => prefetch(reader, &mut cache.prefetch),
            "serve_stale" => cache.serve_stale = stale(reader).or(cache.serve_stale),
            "serve_stale_policy" => {
                if policy.replace(option).is_some() {
                    reader.fault(option, Fault::Again(reader.of()));
                }
                if let Some(token) = reader.sole("prefer_positive")
                    && token.text.to_lowercase() != "prefer_positive"
                {
                    reader.bad::<()>(token, "prefer_positive");
                }
            }
            "servfail" => {
                let Some(token) = reader.sole("a duration") else { continue };
                cache.servfail.set(up_to_five_minutes(reader, token));
            }
            "disable" => disable(reader, cache),
            "keepttl" => cache.keepttl |= reader.nothing(),
            _ => reader.unknown(option, OPTIONS),
        }
    }
    match (&mut cache.serve_stale, policy) {
        (Some(stale), Some(_)) => stale.prefer_positive = true,
        (None, Some(option)) => {
            let problem = "serve_stale_policy is about serve_stale, which isn't there".to_owned();
            reader.fault(option, Fault::Together { problem, fix: "add serve_stale, or remove this" });
        }
        _ => {}
    }
}

/// `CAPACITY [TTL [MINTTL]]`
fn kept(reader: &mut Reader<'_>, kept: &mut Kept) {
    let Some(arguments) = reader.some("a number of answers") else { return };
    let fields = [
        (&mut kept.capacity, i64::MIN..=i64::MAX),
        (&mut kept.ttl, 1..=i64::MAX),
        (&mut kept.minimum_ttl, 0..=i64::MAX),
    ];
    for (token, (field, range)) in arguments.iter().zip(fields) {
        field.set(reader.number(token, range));
    }
    if let Some(further) = arguments.get(3) {
        reader.left_out(further);
    }
}

/// `AMOUNT [DURATION [PERCENT%]]`
fn prefetch(reader: &mut Reader<'_>, prefetch: &mut Prefetch) {
    let Some(arguments) = reader.some("an amount") else { return };
    if let Some(further) = arguments.get(3) {
        reader.excess(further, "an amount, a duration and a percentage");
    }
    if let Some(amount) = arguments.first() {
        prefetch.amount.set(reader.number(amount, 0..=i64::MAX));
    }
    if let Some(duration) = arguments.get(1) {
        prefetch.duration.set(reader.duration(duration, None));
    }
    if let Some(token) = arguments.get(2) {
        let number = token.text.strip_suffix('%').and_then(|number| number.parse().ok());
        prefetch.percentage.set(match number {
            Some(number @ 10..=90) => Some(number),
            _ => reader.bad(token, "a percentage from 10% to 90%"),
        });
    }
}

/// `[DURATION [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]]`
fn stale(reader: &mut Reader<'_>) -> Option<Stale> {
    let arguments = reader.arguments();
    let zero = GoDuration::ZERO;
    let mut stale =
        Stale { duration: GoDuration::from_secs(3600), verify: None, ttl: zero, recheck: zero, prefer_positive: false };
    let mut arguments = arguments.into_iter();
    if let Some(token) = arguments.next() {
        stale.duration = reader.duration(token, Some(zero))?;
    }
    if let Some(token) = arguments.next() {
        match token.text.to_lowercase().as_str() {
            "immediate" => {}
            "verify" => {
                let timeout = arguments.next().map(|token| reader.duration(token, Some(zero)));
                stale.verify = Some(timeout.unwrap_or(Some(zero))?);
            }
            _ => return reader.bad(token, "immediate or verify"),
        }
    }
    if let Some(token) = arguments.next() {
        stale.ttl = reader.duration(token, Some(zero))?;
        let second = GoDuration::from_secs(1).as_nanos();
        if stale.ttl.as_nanos() % second != 0 || stale.ttl.as_nanos() / second > i64::from(u32::MAX) {
            return reader.bad(token, "a TTL of whole seconds");
        }
    }
    if let Some(token) = arguments.next() {
        stale.recheck = up_to_five_minutes(reader, token)?;
    }
    if let Some(further) = arguments.next() {
        reader.excess(further, "a duration, immediate or verify, a timeout after verify, a TTL and a pause");
        return None;
    }
    Some(stale)
}

fn up_to_five_minutes(reader: &mut Reader<'_>, token: &Token) -> Option<GoDuration> {
    match reader.duration(token, Some(GoDuration::ZERO))? {
        duration if duration <= FIVE_MINUTES => Some(duration),
        _ => reader.bad(token, "a duration of 5m at the most (RFC 2308)"),
    }
}

/// `success|denial [ZONES…]`
fn disable(reader: &mut Reader<'_>, cache: &mut Cache) {
    let Some(arguments) = reader.some("success or denial") else { return };
    let Some((kind, names)) = arguments.split_first() else { return };
    let zones = match names {
        [] => vec![Zone::root()],
        names => names.iter().map(|name| Zone::of(&name.text)).collect(),
    };
    match kind.text.as_str() {
        "success" => cache.disable_success = zones,
        "denial" => cache.disable_denial = zones,
        _ => {
            reader.bad::<()>(kind, "success or denial");
        }
    }
}
