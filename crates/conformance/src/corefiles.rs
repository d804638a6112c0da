//! Corefiles through the real CoreDNS and through crate `corefile`: whether each takes them. What is refused here because it
//! isn't supported is counted by itself. Not responsible for what a Corefile makes of queries.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use conformance::{Program, program};
use corefile::{Fault, Problems, Sources};

use crate::dice::Dice;

/// What CoreDNS says when it serves.
const SERVES: &str = "CoreDNS-1.15.0";

/// What CoreDNS says of names, devices and clusters that aren't there, which are looked for here when serving begins.
const LATER: &[&str] = &[
    "failed to resolve",
    ": lookup ",
    "not a valid IP address or interface name",
    "unable to load in-cluster configuration",
    "failed to create kubernetes notification controller",
];

/// Directives with their options, of which files are made.
const DIRECTIVES: &str = include_str!("../../corefile/tests/corefiles/directives");
/// Whole files about the language.
const LANGUAGE: &str = include_str!("../../corefile/tests/corefiles/language");

#[derive(clap::Args)]
pub struct Options {
    /// How many files are made at random of several directives that are taken alone, half of them with a mistake. Before,
    /// each option is tried alone.
    #[arg(long, default_value_t = 400)]
    cases: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only files that contain this.
    #[arg(long)]
    only: Option<String>,
}

/// What came of the files.
#[derive(Default)]
struct Tally {
    taken: usize,
    refused: usize,
    unsupported: BTreeMap<String, usize>,
    later: usize,
    different: usize,
}

/// Compares, prints what differs, and tells whether nothing does.
pub fn run(options: &Options) -> Result<bool> {
    let coredns = program("coredns")?;
    let directory = std::env::temp_dir().join(format!("portolan-corefiles-{}", std::process::id()));
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let mut files = singles();
    files.extend(LANGUAGE.split("=====\n").map(str::to_owned));
    let mut dice = Dice::new(options.seed);
    let good = good(&directory);
    files.extend((0..options.cases).map(|_| several(&good, &mut dice)));
    files.retain(|file| options.only.as_ref().is_none_or(|only| file.contains(only)));
    let mut tally = Tally::default();
    for file in &files {
        let original = original(&coredns, &directory, file)?;
        tally.count(file, &original, &ours(&directory, file));
    }
    fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    let unsupported: usize = tally.unsupported.values().sum();
    let Tally { taken, refused, later, different, .. } = &tally;
    eprintln!("{} files: both take {taken}, both refuse {refused}", files.len());
    eprintln!(
        "refused here by name or on purpose: {unsupported}; looked up later here: {later}; different: {different}"
    );
    tally.unsupported.iter().for_each(|(what, times)| eprintln!("    {times:>4} {what}"));
    Ok(tally.different == 0)
}

impl Tally {
    fn count(&mut self, file: &str, original: &Result<(), String>, ours: &Result<(), Problems>) {
        match (original, ours) {
            (Ok(()), Ok(())) => self.taken += 1,
            (Err(_), Err(_)) => self.refused += 1,
            (Ok(()), Err(problems)) => match unsupported(problems) {
                Some(what) => *self.unsupported.entry(what).or_default() += 1,
                None => self.differs(file, "CoreDNS takes it", &problems.to_string()),
            },
            (Err(original), Ok(())) if LATER.iter().any(|words| original.contains(words)) => self.later += 1,
            (Err(original), Ok(())) => self.differs(file, original, "it is taken here"),
        }
    }

    fn differs(&mut self, file: &str, original: &str, ours: &str) {
        self.different += 1;
        eprintln!("---\n{file}  CoreDNS: {}\n  ours: {ours}", original.trim());
    }
}

/// What isn't supported or is refused on purpose, if nothing else is wrong.
fn unsupported(problems: &Problems) -> Option<String> {
    let told = |fault: &Fault| match fault {
        Fault::UnsupportedPlugin(_) | Fault::UnsupportedOption { .. } | Fault::Block { .. } => Some(fault.to_string()),
        Fault::UnknownOption { plugin: "hosts", .. } => {
            Some("a line of hosts that is neither an entry nor an option".into())
        }
        Fault::Key { because, .. } if because.contains("sockets") => Some((*because).into()),
        Fault::Together { problem, .. } if problem.starts_with("the block of a dns64") => Some(problem.clone()),
        Fault::Value { expected, .. } if expected.starts_with("a zone such as") => {
            Some("a plugin for no zone at all".into())
        }
        Fault::Value { of, value, .. } if of == "autopath" && value.starts_with('@') => {
            Some(format!("autopath {value}"))
        }
        Fault::Value { of, value, .. } if of == "log" => Some(format!("a format without a name: log {value}")),
        Fault::Value { of, .. } if of == "forward" => {
            Some("a FROM of several zones, of which CoreDNS takes the first".into())
        }
        _ => None,
    };
    let all: Option<Vec<String>> = problems.0.iter().map(|problem| told(&problem.fault)).collect();
    all?.into_iter().next()
}

/// Each directive alone, and with each of its options.
fn singles() -> Vec<String> {
    let mut files = Vec::new();
    for (head, options) in pool() {
        files.push(format!("example.org {{\n{}}}\n", directive(head, &[])));
        files.extend(options.iter().map(|option| format!("example.org {{\n{}}}\n", directive(head, &[option]))));
    }
    files
}

fn pool() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut pool: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in DIRECTIVES.lines() {
        match (line.strip_prefix("= "), line.strip_prefix("- "), pool.last_mut()) {
            (Some(head), ..) => pool.push((head, Vec::new())),
            (None, Some(option), Some((_, options))) => options.push(option),
            _ => {}
        }
    }
    pool
}

/// A directive's lines. The plugin kubernetes gets what keeps it from waiting for a cluster.
fn directive(head: &str, options: &[&str]) -> String {
    let mut lines: Vec<&str> = Vec::new();
    if head.starts_with("kubernetes") {
        lines.extend(["endpoint http://127.0.0.1:1", "startup_timeout 1ms"]);
    }
    lines.extend(options);
    if lines.is_empty() {
        return format!("    {head}\n");
    }
    let lines: String = lines.iter().map(|line| format!("        {line}\n")).collect();
    format!("    {head} {{\n{lines}    }}\n")
}

/// The directives and options that are taken alone.
fn good(directory: &Path) -> Vec<(&'static str, Vec<&'static str>)> {
    let taken = |head: &str, options: &[&str]| {
        ours(directory, &format!("example.org {{\n{}}}\n", directive(head, options))).is_ok()
    };
    let pool = pool().into_iter().filter(|(head, _)| taken(head, &[]));
    pool.map(|(head, options)| (head, options.into_iter().filter(|option| taken(head, &[option])).collect())).collect()
}

/// A file of some server blocks with some directives.
fn several(pool: &[(&str, Vec<&str>)], dice: &mut Dice) -> String {
    const KEYS: &[&str] = &[".", "example.org", "10.0.0.0/9", "tls://example.net", "a.example b.example:1053"];
    let mut file = String::new();
    for number in 0..1 + dice.below(2) {
        file.push_str(&format!("zone{number}.example:{} {} {{\n", 1100 + number, dice.pick(KEYS)));
        for _ in 0..dice.below(6) {
            let (head, options) = dice.pick(pool);
            let chosen: Vec<&str> = match options.len() {
                0 => Vec::new(),
                _ => (0..dice.below(4)).map(|_| *dice.pick(options)).collect(),
            };
            file.push_str(&directive(head, &chosen));
        }
        file.push_str("}\n");
    }
    if dice.chance(50) { broken(&file, dice) } else { file }
}

/// One small mistake.
fn broken(file: &str, dice: &mut Dice) -> String {
    const INSERTED: &[&str] =
        &["{", "}", "\"", "#", "\n", " ", ",", "\\", "import ", "import x\n", "{$HOME}", "{$", "(", "0"];
    let places: Vec<usize> = file.char_indices().map(|(at, _)| at).collect();
    let at = *dice.pick(&places);
    match dice.below(3) {
        0 => format!("{}{}{}", &file[..at], dice.pick(INSERTED), &file[at..]),
        1 => format!("{}{}", &file[..at], file[at..].chars().skip(1).collect::<String>()),
        _ => {
            let lines: Vec<&str> = file.lines().collect();
            let out = dice.below(lines.len());
            lines.iter().enumerate().filter(|(number, _)| *number != out).map(|(_, line)| format!("{line}\n")).collect()
        }
    }
}

/// Whether CoreDNS serves with a file; if not, what it says.
fn original(coredns: &Path, directory: &Path, text: &str) -> Result<Result<(), String>> {
    let path = directory.join("Corefile");
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    let mut program = Program::start(directory, coredns, &["-conf".to_owned(), path.display().to_string()])?;
    Ok(program.until(|program| program.said().contains(SERVES)).map_err(|error| error.to_string()))
}

fn ours(directory: &Path, text: &str) -> Result<(), Problems> {
    let path = directory.join("Corefile");
    corefile::parse(&path.to_string_lossy(), text, &Machine, 53).map(|_| ())
}

/// The environment and files that CoreDNS sees, too.
struct Machine;

impl Sources for Machine {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }
}
