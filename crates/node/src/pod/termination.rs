//! What a container leaves as its last words: the file at `terminationMessagePath`, or the end of its log.
//!
//! Not responsible for mounting the file (`launch` does).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use pod_runtime::{ContainerId, ContainerState, ContainerStatus};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::spec::{self, PodKey};
use crate::config::Config;

/// kubelet's limits: of the file, and of what is taken from the log.
const LONGEST: u64 = 4096;
const LONGEST_OF_LOG: u64 = 2048;
const LINES_OF_LOG: usize = 80;
const DEFAULT_PATH: &str = "/dev/termination-log";

/// Below a pod's own directory: the files, by container.
pub const DIRECTORY: &str = "containers";

/// Where the container sees the file; none when it wants none.
pub fn path_inside(container: &Container) -> Option<&str> {
    Some(container.termination_message_path.as_deref().unwrap_or(DEFAULT_PATH)).filter(|path| !path.is_empty())
}

/// Where the node has it.
pub fn path_on_node(config: &Config, uid: &str, container: &str, attempt: u32) -> PathBuf {
    config.pod_dir(uid).join(DIRECTORY).join(container).join(format!("{attempt}.termination-log"))
}

/// An empty file that whoever the container runs as may write.
pub async fn make(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    tokio::fs::write(path, "").await?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).await
}

/// The messages read so far: the files don't change any more.
#[derive(Debug, Default)]
pub struct Messages {
    read: HashMap<ContainerId, String>,
}

impl Messages {
    /// Adds the messages of containers that have ended.
    pub async fn complete(&mut self, config: &Config, pod: &Pod, containers: &mut [ContainerStatus]) {
        self.read.retain(|id, _| containers.iter().any(|container| container.id == *id));
        for container in containers {
            let ContainerState::Exited(exit) = &mut container.state else { continue };
            let Some(member) = spec::member(pod, &container.name).filter(|_| exit.message.is_empty()) else { continue };
            if !self.read.contains_key(&container.id) {
                let file = path_on_node(config, &PodKey::of(pod).uid, &container.name, container.attempt);
                let mut message = start_of(&file).await;
                let policy = member.container.termination_message_policy.as_deref();
                if message.is_empty() && exit.code != 0 && policy == Some("FallbackToLogsOnError") {
                    message = end_of_log(&container.log_path).await;
                }
                self.read.insert(container.id.clone(), message);
            }
            exit.message.clone_from(&self.read[&container.id]);
        }
    }
}

async fn start_of(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = tokio::fs::File::open(path).await {
        // Half a message is better than none.
        let _ = file.take(LONGEST).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn end_of_log(path: &Path) -> String {
    let Ok(mut file) = tokio::fs::File::open(path).await else { return String::new() };
    let length = file.metadata().await.map_or(0, |metadata| metadata.len());
    // Each line has a stamp of its own: twice as much holds the text that is looked for, as a rule.
    let start = length.saturating_sub(LONGEST_OF_LOG * 4);
    let mut bytes = Vec::new();
    if file.seek(std::io::SeekFrom::Start(start)).await.is_err() || file.read_to_end(&mut bytes).await.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.lines().skip(usize::from(start > 0));
    // `TIME STREAM TAG TEXT`.
    let lines: Vec<&str> = whole.filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let message: String =
        lines[lines.len().saturating_sub(LINES_OF_LOG)..].iter().map(|line| format!("{line}\n")).collect();
    let excess = message.len().saturating_sub(usize::try_from(LONGEST_OF_LOG).unwrap_or(usize::MAX));
    let cut = (excess..=message.len()).find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    message[cut..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn the_log_s_last_lines_stand_in_for_a_message() {
        let dir = TempDir::new();
        let log = dir.path().join("0.log");
        let lines: String =
            (0..500).map(|number| format!("2026-01-01T00:00:00.000000001Z stderr F line {number}\n")).collect();
        std::fs::write(&log, lines).unwrap();
        let message = end_of_log(&log).await;
        assert!(message.ends_with("line 498\nline 499\n"), "{message}");
        assert!(message.lines().count() <= LINES_OF_LOG && message.len() as u64 <= LONGEST_OF_LOG);
        assert_eq!(end_of_log(&dir.path().join("none")).await, "");
    }

    #[tokio::test]
    async fn a_long_message_is_cut() {
        let dir = TempDir::new();
        let file = dir.path().join("a/b");
        make(&file).await.unwrap();
        assert_eq!(start_of(&file).await, "");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(start_of(&file).await.len() as u64, LONGEST);
    }
}
