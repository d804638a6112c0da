//! Running a command in a container, through a helper that joins it.
//!
//! Not responsible for interactive execs, which need streams of their own.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pod_runtime::{ContainerId, ContainerState, ExecOutput, RuntimeError};
use serde_json::{Value, json};
use shim::EXEC;
use shim::record::{self as files, ExecConfig, ExecResult};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::watch;

use crate::Shared;
use crate::failure::{HelperFailure, io_at, other_at};

/// As in CRI's ExecSync: what a command says beyond it is dropped.
const LONGEST_OUTPUT: usize = 16 << 20;
/// A command may leave a process behind that holds its output open; what was said is collected until then.
const DRAIN: Duration = Duration::from_millis(500);

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Shared {
    pub(crate) async fn exec(
        self: &Arc<Self>,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        self.container_record(id)?.ok_or_else(|| RuntimeError::NoContainer(id.clone()))?;
        if !matches!(self.state(id)?, ContainerState::Running { .. }) {
            return Err(RuntimeError::NotRunning(id.clone()));
        }
        let container = self.layout.container(id);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let exec = ExecDirectory(container.join(format!("exec-{}-{number}", std::process::id())));
        write_exec(&container, &exec.0, id, command, timeout).map_err(io_at("write an exec's files"))?;
        let (stdout, stderr) = self.run_helper(&container, &exec.0).await?;
        let result: Option<ExecResult> =
            files::read(&exec.0.join(files::EXEC_RESULT)).map_err(io_at("read an exec's result"))?;
        match result {
            Some(ExecResult::Exited { code }) => Ok(ExecOutput { exit_code: code, stdout, stderr }),
            Some(ExecResult::TimedOut) => Err(RuntimeError::ExecTimeout(timeout)),
            Some(ExecResult::CannotRun { message }) => Err(RuntimeError::CannotRun(message)),
            // The container may have ended in the meantime, which is no failure of ours.
            _ if !matches!(self.state(id)?, ContainerState::Running { .. }) => {
                Err(RuntimeError::NotRunning(id.clone()))
            }
            Some(ExecResult::Failed { message }) => Err(other_at("exec in a container")(HelperFailure(message))),
            None => Err(other_at("exec in a container")(HelperFailure("the helper ended without a result".to_owned()))),
        }
    }

    async fn run_helper(&self, container: &Path, exec: &Path) -> Result<(Vec<u8>, Vec<u8>), RuntimeError> {
        let mut helper = Command::new(&self.config.executable)
            .arg(EXEC)
            .args([container, exec])
            .env_clear()
            .current_dir("/")
            // A lifeline: dropping this future, or this process's end, ends the command.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_at("start an exec's helper"))?;
        // `wait` would close it.
        let _lifeline = helper.stdin.take();
        let (stdout, stderr) = (helper.stdout.take(), helper.stderr.take());
        let (ended, helper_ended) = watch::channel(false);
        let waiting = async move {
            let result = helper.wait().await;
            let _ = ended.send(true);
            result
        };
        let (waited, stdout, stderr) =
            tokio::join!(waiting, collect(stdout, helper_ended.clone()), collect(stderr, helper_ended));
        waited.map_err(io_at("wait for an exec's helper"))?;
        Ok((stdout, stderr))
    }
}

/// A directory that is gone with the value.
struct ExecDirectory(std::path::PathBuf);

impl Drop for ExecDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The container's own process with another command: same user, capabilities, variables and directory.
fn write_exec(
    container: &Path,
    exec: &Path,
    id: &ContainerId,
    command: &[String],
    timeout: Duration,
) -> std::io::Result<()> {
    let document: Value = serde_json::from_slice(&fs::read(container.join(files::SPEC))?)?;
    let mut process = document["process"].clone();
    process["args"] = json!(command);
    process["terminal"] = json!(false);
    let timeout_ms = (!timeout.is_zero()).then(|| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
    fs::create_dir_all(exec)?;
    files::write(&exec.join(files::PROCESS), &process)?;
    files::write(&exec.join(files::EXEC_CONFIG), &ExecConfig { id: id.0.clone(), timeout_ms })
}

/// Reads until the stream ends, or until a moment after the helper has.
async fn collect(stream: Option<impl AsyncRead + Unpin>, mut helper_ended: watch::Receiver<bool>) -> Vec<u8> {
    let (mut output, mut buffer) = (Vec::new(), vec![0_u8; 16 * 1024]);
    let Some(mut stream) = stream else { return output };
    let late = async move {
        let _ = helper_ended.wait_for(|ended| *ended).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::pin!(late);
    loop {
        let count = tokio::select! {
            biased;
            read = stream.read(&mut buffer) => read.unwrap_or(0),
            () = &mut late => 0,
        };
        if count == 0 {
            return output;
        }
        let room = LONGEST_OUTPUT.saturating_sub(output.len()).min(count);
        output.extend_from_slice(&buffer[..room]);
    }
}
