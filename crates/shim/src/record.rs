//! What a runtime and the processes it starts tell each other through files of a container's directory. A file is
//! written whole under another name, then renamed, so that a reader sees all of it or nothing.
//!
//! Not responsible for the OCI files beside them (`config.json`, `process.json`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::ProcessIdentity;

/// The OCI bundle's specification, from the runtime.
pub const SPEC: &str = "config.json";
/// `ShimConfig`, from the runtime.
pub const SHIM_CONFIG: &str = "shim.json";
/// `Running`, from the shim.
pub const RUNNING: &str = "running.json";
/// `ExitRecord`, from the shim.
pub const EXIT: &str = "exit.json";
/// Mount point of the container's root, in the shim's mount namespace only.
pub const ROOTFS: &str = "rootfs";
/// Where the shim binds parts of mounts' sources, in its mount namespace only.
pub const PARTS: &str = "parts";
/// libcontainer's state directory.
pub const OCI_STATE: &str = "oci";
/// In an exec's directory: the OCI process, from the runtime.
pub const PROCESS: &str = "process.json";
/// In an exec's directory: `ExecConfig`, from the runtime.
pub const EXEC_CONFIG: &str = "exec.json";
/// In an exec's directory: `ExecResult`, from the helper.
pub const EXEC_RESULT: &str = "result.json";

/// What a shim has to know besides the OCI specification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShimConfig {
    pub id: String,
    /// The image's layers, topmost first. Each is locked (shared) as long as the shim lives.
    pub lower_dirs: Vec<PathBuf>,
    pub upper_dir: PathBuf,
    pub work_dir: PathBuf,
    /// Made in the container if no layer has it.
    pub working_dir: PathBuf,
    pub log_path: PathBuf,
    pub log_limit: LogLimit,
    /// Bound before the container is made.
    pub parts: Vec<SourcePart>,
    /// Keep standard input open instead of empty.
    pub stdin: bool,
    /// The node's processes are the container's to see, and its own don't end with its first.
    pub shares_processes: bool,
    /// A pseudo-terminal instead of pipes; as in the specification's process.
    pub terminal: bool,
    /// Relative to each hierarchy's root, as in the specification.
    pub cgroup: PathBuf,
    /// Mounts that the shim's mount namespace must not keep alive.
    pub detach: Vec<PathBuf>,
}

/// When output goes to a new file, and how many are kept, the newest included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LogLimit {
    pub file_bytes: u64,
    pub files: u32,
}

/// A part of a directory that others may write to: `inside` is looked up without ever leaving `root`, and bound to `at`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourcePart {
    pub root: PathBuf,
    pub inside: PathBuf,
    pub at: PathBuf,
}

/// A container's processes, from its start on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub shim: ProcessIdentity,
    pub init: ProcessIdentity,
    /// Unix seconds.
    pub started_at: i64,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// The process's own, or 128 + signal.
    pub code: i32,
    pub signal: Option<i32>,
    /// Unix seconds.
    pub started_at: i64,
    pub finished_at: i64,
    pub reason: String,
    pub message: String,
}

/// The line a starting shim prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum StartReport {
    Started,
    /// The container's own doing: its program can't be executed. An exit record says so too.
    CannotRun {
        message: String,
    },
    /// Making the container failed; nothing is left of the attempt.
    Failed {
        message: String,
    },
    /// Another shim has this container.
    Busy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExecConfig {
    /// The container's name in `oci`.
    pub id: String,
    /// None waits for ever.
    pub timeout_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum ExecResult {
    /// The code, or 128 + signal.
    Exited {
        code: i32,
    },
    TimedOut,
    CannotRun {
        message: String,
    },
    Failed {
        message: String,
    },
}

/// Writes `value` as JSON, whole or not at all.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    fs::write(&temporary, serde_json::to_vec(value)?)?;
    fs::rename(&temporary, path)
}

/// Reads what `write` wrote; `None` when there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Unix seconds, now.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
