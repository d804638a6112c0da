//! Whether a set of calls is linearizable, given the order in which the writes were committed.
//!
//! The store numbers its writes, so there is nothing to search: a write happened at its revision, and a read happened
//! between two of them. Each read gets the earliest revision that explains it and is not before anything that ended
//! before it began; if that is after something that began after it ended, no order explains the calls. The earliest
//! choice is never a mistake: it leaves most room to what comes later.

use std::collections::BTreeMap;
use std::fmt;

/// What a client asked for. A value is unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Get { key: String },
    List,
    Put { key: String, value: String },
    Create { key: String, value: String },
    Swap { key: String, revision: i64, value: String },
    Delete { key: String },
}

/// When it was last written, and what to.
type Seen = (i64, String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Committed(i64),
    Conflict(Option<Seen>),
    Entry(Option<Seen>),
    List { revision: i64, entries: Vec<(String, Seen)> },
}

#[derive(Clone, Debug)]
pub struct Call {
    pub begun: u64,
    pub ended: u64,
    pub request: Request,
    /// `None`: the server ended meanwhile; it may have happened then or never, but not later.
    pub answer: Option<Answer>,
}

/// The change of each revision, from 2 on; `None` is a deletion.
pub type Log = [(String, Option<String>)];

/// Holds every call against the log.
pub fn check(calls: &[Call], log: &Log) -> Result<(), String> {
    let registers = Registers::new(log);
    every_write_was_asked_for(calls, log)?;
    let mut calls: Vec<&Call> = calls.iter().filter(|call| call.answer.is_some()).collect();
    calls.sort_by_key(|call| call.begun);
    // What has ended, by when, with where it happened; and the latest place among those up to there.
    let mut places: Vec<(u64, i64)> = Vec::new();
    for call in &calls {
        let floor = places.iter().filter(|(ended, _)| *ended < call.begun).map(|(_, at)| *at).max().unwrap_or(1);
        let at = registers.place(call, floor).map_err(|reason| format!("{call:?}: {reason}"))?;
        places.push((call.ended, at));
        // Old ones below the floor say nothing new.
        if places.len() > 256 {
            let oldest = call.begun;
            places.retain(|(ended, at)| *ended >= oldest || *at == floor);
        }
    }
    Ok(())
}

/// Each revision is one request's doing, at most one revision is, and every acknowledged one is.
fn every_write_was_asked_for(calls: &[Call], log: &Log) -> Result<(), String> {
    let mut writers: BTreeMap<(&str, &str), &Call> = BTreeMap::new();
    for call in calls {
        if let Request::Put { key, value } | Request::Create { key, value } | Request::Swap { key, value, .. } =
            &call.request
        {
            writers.insert((key, value), call);
        }
    }
    for ((key, value), revision) in log.iter().zip(2..) {
        let Some(value) = value else { continue };
        let Some(writer) = writers.remove(&(key.as_str(), value.as_str())) else {
            return Err(format!("revision {revision} wrote {value} to {key}, which nobody asked for, or not twice"));
        };
        if writer.answer.as_ref().is_some_and(|answer| *answer != Answer::Committed(revision)) {
            return Err(format!("{writer:?} was told something else than revision {revision}"));
        }
    }
    for (_, call) in writers {
        if let Some(Answer::Committed(revision)) = call.answer {
            return Err(format!("{call:?} was acknowledged at revision {revision} and is lost"));
        }
    }
    Ok(())
}

/// What each key held at each revision.
struct Registers<'a> {
    by_key: BTreeMap<&'a str, Vec<(i64, Option<&'a str>)>>,
    newest: i64,
}

impl<'a> Registers<'a> {
    fn new(log: &'a Log) -> Self {
        let mut by_key: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for ((key, value), revision) in log.iter().zip(2..) {
            by_key.entry(key).or_default().push((revision, value.as_deref()));
        }
        Registers { by_key, newest: 1 + i64::try_from(log.len()).unwrap() }
    }

    fn at(&self, key: &str, revision: i64) -> Option<Seen> {
        let changes = self.by_key.get(key)?;
        let before = changes.partition_point(|(at, _)| *at <= revision);
        let (at, value) = changes[..before].last()?;
        value.map(|value| (*at, value.to_owned()))
    }

    /// The earliest revision from `floor` on at which the call can have been answered as it was.
    fn place(&self, call: &Call, floor: i64) -> Result<i64, String> {
        let answer = call.answer.as_ref().ok_or("it has no answer")?;
        match (&call.request, answer) {
            (Request::Get { key }, Answer::Entry(seen)) => self.reads(key, seen, floor),
            (Request::Create { key, .. } | Request::Swap { key, .. }, Answer::Conflict(seen)) => {
                let explained = match &call.request {
                    Request::Swap { revision, .. } => seen.as_ref().is_none_or(|(at, _)| at != revision),
                    _ => seen.is_some(),
                };
                if explained { self.reads(key, seen, floor) } else { Err("that is no conflict".to_owned()) }
            }
            (Request::List, Answer::List { revision, entries }) => {
                let expected: Vec<(String, Seen)> =
                    self.by_key.keys().filter_map(|key| Some((key.to_string(), self.at(key, *revision)?))).collect();
                if *entries != expected {
                    return Err(format!("at revision {revision} there was {expected:?}"));
                }
                exactly(*revision, floor)
            }
            // Deleting what isn't there changes nothing and is told the revision it found, which may be another's deletion.
            (Request::Delete { key }, Answer::Committed(revision)) => match self.at(key, *revision) {
                None => exactly(*revision, floor),
                Some(found) => Err(format!("{key} still held {found:?}")),
            },
            (Request::Put { .. }, Answer::Committed(revision)) => exactly(*revision, floor + 1),
            (Request::Create { key, .. }, Answer::Committed(revision)) => match self.at(key, *revision - 1) {
                None => exactly(*revision, floor + 1),
                Some(found) => Err(format!("it was there already: {found:?}")),
            },
            (Request::Swap { key, revision: compared, .. }, Answer::Committed(revision)) => {
                match self.at(key, *revision - 1) {
                    Some((at, _)) if at == *compared => exactly(*revision, floor + 1),
                    found => Err(format!("it replaced {found:?}")),
                }
            }
            _ => Err("that is no answer to it".to_owned()),
        }
    }

    fn reads(&self, key: &str, seen: &Option<Seen>, floor: i64) -> Result<i64, String> {
        let changes = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        let next = changes.partition_point(|(at, _)| *at <= floor);
        let later = changes[next..].iter().map(|(at, _)| *at);
        std::iter::once(floor)
            .chain(later)
            .find(|at| self.at(key, *at) == *seen)
            .ok_or_else(|| format!("from revision {floor} to {} {key} never held that", self.newest))
    }
}

fn exactly(revision: i64, least: i64) -> Result<i64, String> {
    match revision >= least {
        true => Ok(revision),
        false => Err(format!("it happened at revision {revision}, although {least} was seen before it began")),
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Get { key } => write!(f, "get {key}"),
            Request::List => write!(f, "list"),
            Request::Put { key, value } => write!(f, "put {key} {value}"),
            Request::Create { key, value } => write!(f, "create {key} {value}"),
            Request::Swap { key, revision, value } => write!(f, "swap {key} {revision} {value}"),
            Request::Delete { key } => write!(f, "delete {key}"),
        }
    }
}

impl Request {
    pub fn parse(line: &str) -> Option<Request> {
        let own = |text: &str| text.to_owned();
        Some(match line.split(' ').collect::<Vec<_>>()[..] {
            ["get", key] => Request::Get { key: own(key) },
            ["list"] => Request::List,
            ["put", key, value] => Request::Put { key: own(key), value: own(value) },
            ["create", key, value] => Request::Create { key: own(key), value: own(value) },
            ["swap", key, at, value] => Request::Swap { key: own(key), revision: at.parse().ok()?, value: own(value) },
            ["delete", key] => Request::Delete { key: own(key) },
            _ => return None,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = |seen: &Option<Seen>| match seen {
            Some((revision, value)) => format!("{revision} {value}"),
            None => "-".to_owned(),
        };
        match self {
            Answer::Committed(revision) => write!(f, "committed {revision}"),
            Answer::Conflict(found) => write!(f, "conflict {}", seen(found)),
            Answer::Entry(found) => write!(f, "entry {}", seen(found)),
            Answer::List { revision, entries } => {
                write!(f, "list {revision}")?;
                entries.iter().try_for_each(|(key, (at, value))| write!(f, " {key} {at} {value}"))
            }
        }
    }
}

impl Answer {
    pub fn parse(line: &str) -> Option<Answer> {
        let seen = |words: &[&str]| match words {
            ["-"] => Some(None),
            [at, value] => Some(Some((at.parse().ok()?, (*value).to_owned()))),
            _ => None,
        };
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["committed", revision] => Some(Answer::Committed(revision.parse().ok()?)),
            ["conflict", ref rest @ ..] => Some(Answer::Conflict(seen(rest)?)),
            ["entry", ref rest @ ..] => Some(Answer::Entry(seen(rest)?)),
            ["list", revision, ref rest @ ..] => {
                let entry = |words: &[&str]| Some((words[0].to_owned(), (words[1].parse().ok()?, words[2].to_owned())));
                let entries = rest.chunks_exact(3).map(entry).collect::<Option<Vec<_>>>()?;
                Some(Answer::List { revision: revision.parse().ok()?, entries })
            }
            _ => None,
        }
    }
}

/// A checker that finds nothing proves nothing: small histories that are wrong, each in one way.
pub fn it_notices_what_is_wrong() {
    let call = |begun, ended, request: &str, answer: &str| Call {
        begun,
        ended,
        request: Request::parse(request).unwrap(),
        answer: (!answer.is_empty()).then(|| Answer::parse(answer).unwrap()),
    };
    let log = |changes: &[(&str, Option<&str>)]| -> Vec<(String, Option<String>)> {
        changes.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect()
    };
    let two = log(&[("/a", Some("x")), ("/a", Some("y"))]);
    let (first, second) = (call(1, 2, "put /a x", "committed 2"), call(3, 4, "put /a y", "committed 3"));
    let verdict = |extra: &[Call], log: &Log| check(&[&[first.clone(), second.clone()], extra].concat(), log);
    let right =
        [call(0, 9, "get /a", "entry -"), call(3, 6, "get /a", "entry 2 x"), call(5, 7, "list", "list 3 /a 3 y")];
    assert_eq!(verdict(&right, &two), Ok(()));
    let unknown = log(&[("/a", Some("x")), ("/a", Some("y")), ("/b", Some("z"))]);
    assert_eq!(verdict(&[call(5, 6, "put /b z", "")], &unknown), Ok(()));
    assert_eq!(verdict(&[call(5, 6, "put /b z", "")], &two), Ok(()));
    for (wrong, log) in [
        // An old value after a newer write was acknowledged.
        (vec![call(5, 6, "get /a", "entry 2 x")], &two),
        // Two readers who disagree about the order.
        (vec![call(3, 5, "get /a", "entry 3 y"), call(6, 7, "get /a", "entry 2 x")], &two),
        // A value that was never there, and one from nowhere.
        (vec![call(5, 6, "get /a", "entry 3 q")], &two),
        (vec![], &unknown),
        // A list that is no state.
        (vec![call(5, 6, "list", "list 3 /a 2 x")], &two),
        // A swap that should not have happened, a conflict that is none, an acknowledged write that is lost.
        (vec![call(5, 6, "swap /b 2 z", "committed 4")], &unknown),
        (vec![call(5, 6, "create /b z", "conflict -")], &two),
        (vec![call(5, 6, "put /b z", "committed 4")], &two),
    ] {
        assert!(verdict(&wrong, log).is_err(), "{wrong:?} was let through");
    }
}
