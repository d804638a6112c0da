//! What runs in the containers.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use pod_runtime::battery::Act;

/// The command line for an act.
pub fn command(act: Act) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let args = match act {
        Act::Exit(code) => vec!["exit".to_owned(), code.to_string()],
        Act::Stay => vec!["stay".to_owned()],
        Act::Stubborn => vec!["stubborn".to_owned()],
        Act::Say(out, err) => vec!["say".to_owned(), out, err],
        Act::Tell => vec!["tell".to_owned()],
        Act::Write(file) => vec!["write".to_owned(), path(&file)],
        Act::Look(file) => vec!["look".to_owned(), path(&file)],
        Act::EndAt(file, code) => vec!["end-at".to_owned(), path(&file), code.to_string()],
    };
    std::iter::once("/testserver".to_owned()).chain(args).collect()
}

pub fn act(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["exit", code] => exit(code),
        ["stay"] => wait_for(Signal::SIGTERM),
        ["stubborn"] => wait_for(Signal::SIGUSR1),
        ["say", out, err] => {
            io::stdout().write_all(out.as_bytes()).and_then(|()| io::stdout().flush()).unwrap();
            io::stderr().write_all(err.as_bytes()).unwrap();
            ExitCode::SUCCESS
        }
        ["tell"] => tell(),
        ["write", path] => succeeded(std::fs::write(path, "written")),
        ["look", path] => succeeded(std::fs::metadata(path)),
        ["end-at", path, code] => {
            while !Path::new(path).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            exit(code)
        }
        ["allocate", bytes] => allocate(bytes.parse().unwrap()),
        _ => panic!("unknown act {args:?}"),
    }
}

fn exit(code: &str) -> ExitCode {
    ExitCode::from(code.parse::<u8>().unwrap())
}

fn succeeded<T>(result: io::Result<T>) -> ExitCode {
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wait_for(signal: Signal) -> ExitCode {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGUSR1);
    signals.thread_block().unwrap();
    say("up");
    while signals.wait().unwrap() != signal {}
    ExitCode::SUCCESS
}

fn tell() -> ExitCode {
    let groups = nix::unistd::getgroups().unwrap();
    say(&format!("uid={}", nix::unistd::getuid()));
    say(&format!("gid={}", nix::unistd::getgid()));
    say(&format!("groups={}", groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")));
    say(&format!("host={}", nix::unistd::gethostname().unwrap().display()));
    say(&format!("cwd={}", std::env::current_dir().unwrap().display()));
    say(&format!("net={}", std::fs::read_link("/proc/self/ns/net").unwrap().display()));
    for (name, value) in std::env::vars() {
        say(&format!("env:{name}={value}"));
    }
    ExitCode::SUCCESS
}

fn allocate(bytes: usize) -> ExitCode {
    let memory = vec![1_u8; bytes];
    say(&format!("{}", memory.iter().map(|byte| u64::from(*byte)).sum::<u64>()));
    ExitCode::SUCCESS
}

fn say(line: &str) {
    println!("{line}");
}
