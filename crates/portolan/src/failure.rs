//! How a command's failure is told, and by which code it ends.
//!
//! Not responsible for mistakes that the command line's own parser finds.

use std::process::ExitCode;

use kube::core::response::Status;

/// What was asked for can't be: like a mistake in the command line, since the flags are what has to change.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Usage(anyhow::Error);

/// Of a [`Usage`], as of every mistake in a command line.
const USAGE: u8 = 2;

impl Usage {
    pub fn of(error: anyhow::Error) -> anyhow::Error {
        anyhow::Error::new(Usage(error))
    }
}

pub fn code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Usage>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

/// The error and its causes in one line, each said once: many libraries repeat the cause in what they say themselves.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut add = |words: String| {
        if !text.contains(&words) {
            let between = if text.is_empty() { "" } else { ": " };
            text.push_str(between);
            text.push_str(&words);
        }
    };
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            // What is below repeats it with the whole Status.
            add(said_by_server(status));
            break;
        }
        add(cause.to_string());
    }
    text
}

fn said_by_server(status: &Status) -> String {
    if status.message.is_empty() { format!("{} ({})", status.reason, status.code) } else { status.message.clone() }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open /nope: {source}")]
    struct Open {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::Error::new(Open { source: std::io::Error::from_raw_os_error(2) });
        assert_eq!(
            told(&error.context("cannot load it")),
            "cannot load it: open /nope: No such file or directory (os error 2)"
        );
        let causes: Result<(), _> = Err(anyhow!("no room")).context("cannot write");
        assert_eq!(told(&causes.unwrap_err()), "cannot write: no room");
    }

    #[test]
    fn what_the_server_says_is_told_without_the_rest() {
        let status = Status::failure("the address is taken", "Invalid").with_code(422);
        let error = anyhow::Error::new(kube::Error::Api(Box::new(status))).context("cannot make it");
        assert_eq!(told(&error), "cannot make it: the address is taken");
    }
}
