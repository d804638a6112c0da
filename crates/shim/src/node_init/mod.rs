//! A node's init: makes the node's namespaces, is PID 1 in them, keeps the node's processes running, reaps what is
//! left to it, and ends (and with it everything in the pid namespace) when its supervisor does.
//!
//! Two processes: the *outer* one stays in the host's namespaces, reports the node's pid and tidies up after it; the
//! *inner* one is PID 1. Not responsible for the node's links, addresses and rules.
//!
//! # Use
//!
//! `EXE __node-init FILE [KEEP]`, where FILE holds a [`NodeInitConfig`] as JSON and KEEP is opened and held for as long
//! as the node lives (a namespace that must not end before it). The lifeline is a descriptor (standard input by
//! default) whose end of file means that the supervisor is gone: give a pipe and keep its other end open. With
//! `lifeline_grace_ms` a node outlives its supervisor by so much, for another to take the lifeline up again: the outer
//! process has it as `/proc/<pid>/fd/0` to open for writing. [`LIFELINE_END`] on the lifeline ends the node: children with
//! an `end_signal` get it and `stop_grace_ms` first, unless the word comes again; the same when the grace is over.
//! On standard output comes one line, a [`NodeReady`], when the namespaces are made; then nothing. With `wait_for_go`
//! the children start when [`LIFELINE_GO`] comes over the lifeline (say, when the node's links are made); else at once.
//! SIGTERM is forwarded to the children, which get `stop_grace_ms` to end. The exit code is 0, unless a child with
//! [`OnExit::EndNode`] ended: then it is that child's.
#![allow(unsafe_code)]

mod children;
mod inner;
mod outer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

pub(crate) use outer::run;

/// Over the lifeline: start the children.
pub const LIFELINE_GO: u8 = b'g';
/// Over the lifeline: end the node, as soon as the children with an `end_signal` have ended. Once more: now.
pub const LIFELINE_END: u8 = b'e';

/// What a node is. Field names in JSON are camelCase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeInitConfig {
    pub hostname: String,
    /// A namespace to join, bound at this path; a new one when absent.
    #[serde(default)]
    pub network_namespace: Option<PathBuf>,
    /// The descriptor that ends when the supervisor does.
    #[serde(default)]
    pub lifeline: i32,
    /// Start the children only when a byte has come over the lifeline.
    #[serde(default)]
    pub wait_for_go: bool,
    /// How long the node goes on when the lifeline has ended, unless somebody takes it up again.
    #[serde(default)]
    pub lifeline_grace_ms: u64,
    /// Directories that get an empty tmpfs of the node's own.
    #[serde(default = "run_directory")]
    pub tmpfs: Vec<PathBuf>,
    /// Files and directories of the host that are seen at other places in the node, after the tmpfs are mounted.
    /// Sources are resolved before.
    #[serde(default)]
    pub binds: Vec<Bind>,
    pub children: Vec<Child>,
    #[serde(default = "stop_grace_ms")]
    pub stop_grace_ms: u64,
    /// A control group (`/portolan/<cluster>/<node>`) that is removed after the node's end, with all below it
    /// and with those above it that are empty then.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
    #[serde(default)]
    pub read_only: bool,
}

/// A process of the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Child {
    pub name: String,
    /// The program's absolute path and its arguments.
    pub argv: Vec<String>,
    /// Added to the init's own environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Output and errors are appended to it; a path of the host.
    pub log: PathBuf,
    #[serde(default)]
    pub on_exit: OnExit,
    /// The number of a signal that tells it that the node ends. It then has `stop_grace_ms`, while the others go on.
    #[serde(default)]
    pub end_signal: Option<i32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnExit {
    /// Start it again: at once the first time, then later and later (up to 5 s) while it keeps ending early.
    #[default]
    Restart,
    /// End the node with the child's exit code.
    EndNode,
}

/// The line on standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReady {
    /// The node's PID 1, in the supervisor's pid namespace: `/proc/<pid>/ns/net` is the node's network.
    pub pid: i32,
}

/// The failed step of making a node.
#[derive(Debug, thiserror::Error)]
enum NodeInitError {
    #[error("read the node's configuration {path}: {source}")]
    Config {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{step}: {source}")]
    Step {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{step} {path}: {source}")]
    Path {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

fn step<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> NodeInitError {
    move |source| NodeInitError::Step { step, source: source.into() }
}

fn at<'a, E: Into<std::io::Error>>(step: &'static str, path: &'a Path) -> impl FnOnce(E) -> NodeInitError + 'a {
    move |source| NodeInitError::Path { step, path: path.to_owned(), source: source.into() }
}

fn run_directory() -> Vec<PathBuf> {
    vec![PathBuf::from("/run")]
}

fn stop_grace_ms() -> u64 {
    2_000
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_has_to_be_said() {
        let text = r#"{"hostname":"n","children":[{"name":"agent","argv":["/a"],"log":"/l"}]}"#;
        let config: NodeInitConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.lifeline, config.wait_for_go, config.stop_grace_ms), (0, false, 2_000));
        assert_eq!(config.tmpfs, [PathBuf::from("/run")]);
        assert_eq!(config.children[0].on_exit, OnExit::Restart);
        assert!(serde_json::from_str::<NodeInitConfig>(&text.replace("hostname", "hostName")).is_err());
    }
}
