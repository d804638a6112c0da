//! Reading a container's log file: the tail without reading the whole, then line by line, then following.

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

use super::LogQuery;

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Blocks read backwards for the tail.
const BLOCK: u64 = 64 * 1024;
/// A line longer than this is not one of ours (the runtime splits at 16 KiB).
const LONGEST: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot read the log {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// One run's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile(pub PathBuf);

/// The newest run's file in a container's directory, or the one before; none when there is none.
pub async fn find(dir: &Path, previous: bool) -> Option<LogFile> {
    let mut entries = tokio::fs::read_dir(dir).await.ok()?;
    let mut attempts = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let attempt = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|n| n.parse::<u32>().ok());
        attempts.extend(attempt);
    }
    attempts.sort_unstable();
    let attempt = if previous { attempts.iter().rev().nth(1) } else { attempts.last() }?;
    Some(LogFile(dir.join(format!("{attempt}.log"))))
}

/// Sends what is asked for until the end; with `follow`, until `running` says that nothing more will come. Ends when
/// nobody listens. `now` is what `sinceSeconds` counts from.
pub async fn read<F, R>(
    file: LogFile,
    query: LogQuery,
    now: Timestamp,
    running: F,
    out: mpsc::Sender<Result<Bytes, LogError>>,
) where
    F: Fn() -> R,
    R: Future<Output = bool>,
{
    if let Err(source) = pump(&file.0, &query, now, running, &out).await {
        let _ = out.send(Err(LogError::Io { path: file.0, source })).await;
    }
}

async fn pump<F, R>(
    path: &Path,
    query: &LogQuery,
    now: Timestamp,
    running: F,
    out: &mpsc::Sender<Result<Bytes, LogError>>,
) -> std::io::Result<()>
where
    F: Fn() -> R,
    R: Future<Output = bool>,
{
    let mut file = File::open(path).await?;
    if let Some(lines) = query.tail_lines {
        let start = tail_start(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let since = query.since(now);
    let mut left = query.limit_bytes.unwrap_or(u64::MAX);
    let mut reader = BufReader::new(file);
    let mut pending = Vec::new();
    let mut last_look = false;
    let mut next = None;
    loop {
        let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut pending).await?;
        if read > 0 && (pending.ends_with(b"\n") || pending.len() as u64 >= LONGEST) {
            last_look = false;
            let shown = parse(&pending).filter(|line| since.is_none_or(|since| line.at.is_none_or(|at| at >= since)));
            if let Some(line) = shown {
                let mut text = line.text(query.timestamps);
                text.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= text.len() as u64;
                if out.send(Ok(Bytes::from(text))).await.is_err() || left == 0 {
                    return Ok(());
                }
            }
            pending.clear();
            continue;
        }
        if !query.follow || last_look {
            return Ok(());
        }
        // What was put aside meanwhile is read to its end first; the next file begins where it ended.
        if let Some(file) = next.take() {
            reader = BufReader::new(file);
            pending.clear();
            continue;
        }
        next = successor(path, reader.get_ref()).await?;
        if next.is_some() {
            continue;
        }
        // The process may have written its last line between our read and its end: one more look after that.
        last_look = !running().await;
        if !last_look {
            tokio::select! {
                () = out.closed() => return Ok(()),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

/// The file that has taken this one's place, if one has.
async fn successor(path: &Path, file: &File) -> std::io::Result<Option<File>> {
    let own = file.metadata().await?;
    match File::open(path).await {
        Ok(next) => {
            let found = next.metadata().await?;
            Ok(((own.dev(), own.ino()) != (found.dev(), found.ino())).then_some(next))
        }
        // Between the two, or removed with its pod.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the last `lines` whole lines begin. A line that the runtime split counts once.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let end = file.metadata().await?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut wanted = lines;
    let mut position = end;
    // The bytes from `position` to the end of the line that is looked for.
    let mut held: Vec<u8> = Vec::new();
    while position > 0 {
        let size = BLOCK.min(position);
        position -= size;
        file.seek(SeekFrom::Start(position)).await?;
        let mut block = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact(&mut block).await?;
        block.append(&mut held);
        held = block;
        while let Some(at) = held[..held.len() - 1].iter().rposition(|byte| *byte == b'\n') {
            if is_whole(&held[at + 1..]) {
                if wanted == 0 {
                    return Ok(position + held.len() as u64);
                }
                wanted -= 1;
            }
            held.truncate(at + 1);
        }
    }
    Ok(if wanted == 0 && is_whole(&held) { held.len() as u64 } else { 0 })
}

/// Ends a line of the container's, as opposed to a part of one.
fn is_whole(line: &[u8]) -> bool {
    line.splitn(4, |byte| *byte == b' ').nth(2).is_some_and(|tag| tag != b"P")
}

/// A line as written.
struct Line<'a> {
    at: Option<Timestamp>,
    stamp: &'a [u8],
    partial: bool,
    content: &'a [u8],
}

impl Line<'_> {
    fn text(&self, timestamps: bool) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.content.len() + self.stamp.len() + 2);
        if timestamps {
            text.extend_from_slice(self.stamp);
            text.push(b' ');
        }
        text.extend_from_slice(self.content);
        if !self.partial {
            text.push(b'\n');
        }
        text
    }
}

/// None for what is no line of ours: half written when the machine went down.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (stamp, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let content = parts.next().unwrap_or(b"");
    if stream != b"stdout" && stream != b"stderr" {
        return None;
    }
    let at = std::str::from_utf8(stamp).ok().and_then(|stamp| stamp.parse().ok());
    Some(Line { at, stamp, partial: tag == b"P", content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn line(second: u32, tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.000000001Z stdout {tag} {text}\n")
    }

    async fn ask(content: &str, query: &str) -> String {
        let dir = TempDir::new();
        let path = dir.path().join("0.log");
        std::fs::write(&path, content).unwrap();
        let (out, mut lines) = mpsc::channel(4);
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let query = LogQuery::parse(query).unwrap();
        let task = tokio::spawn(read(LogFile(path), query, now, || async { false }, out));
        let mut text = Vec::new();
        while let Some(bytes) = lines.recv().await {
            text.extend_from_slice(&bytes.unwrap());
        }
        task.await.unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn lines_tails_times_and_limits() {
        let content: String =
            [line(1, "F", "one"), line(2, "P", "tw"), line(3, "F", "o"), line(4, "F", ""), line(5, "F", "five")]
                .concat();
        assert_eq!(ask(&content, "").await, "one\ntwo\n\nfive\n");
        for (lines, expected) in [
            (0, ""),
            (1, "five\n"),
            (2, "\nfive\n"),
            (3, "two\n\nfive\n"),
            (4, "one\ntwo\n\nfive\n"),
            (9, "one\ntwo\n\nfive\n"),
        ] {
            assert_eq!(ask(&content, &format!("tailLines={lines}")).await, expected, "{lines}");
        }
        assert_eq!(ask(&content, "tailLines=1&timestamps=true").await, "2026-01-01T00:00:05.000000001Z five\n");
        assert_eq!(ask(&content, "sinceTime=2026-01-01T00:00:04Z").await, "\nfive\n");
        assert_eq!(ask(&content, "sinceSeconds=55").await, "five\n");
        assert_eq!(ask(&content, "limitBytes=6").await, "one\ntw");
        assert_eq!(ask("", "tailLines=3").await, "");
        assert_eq!(ask("garbage\n", "").await, "");
    }

    #[tokio::test]
    async fn a_tail_reaches_over_many_blocks() {
        let content: String = (0..5000).map(|n| line(n % 60, "F", &format!("{n:060}"))).collect();
        let text = ask(&content, "tailLines=3000").await;
        assert_eq!(text.lines().count(), 3000);
        assert!(text.starts_with(&format!("{:060}\n", 2000)));
    }

    #[tokio::test]
    async fn following_shows_what_comes_until_the_container_ends() {
        let dir = TempDir::new();
        let path = dir.path().join("0.log");
        std::fs::write(&path, line(1, "F", "first")).unwrap();
        let (out, mut lines) = mpsc::channel(4);
        static RUNNING: AtomicBool = AtomicBool::new(true);
        let query = LogQuery::parse("follow=true").unwrap();
        let running = || async { RUNNING.load(Ordering::SeqCst) };
        let task = tokio::spawn(read(LogFile(path.clone()), query, Timestamp::UNIX_EPOCH, running, out));
        assert_eq!(lines.recv().await.unwrap().unwrap(), "first\n");
        let append = |text: &str| {
            let known = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, known + text).unwrap();
        };
        append(&line(2, "F", "second"));
        assert_eq!(lines.recv().await.unwrap().unwrap(), "second\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, line(3, "F", "third")).unwrap();
        assert_eq!(lines.recv().await.unwrap().unwrap(), "third\n", "it goes on in the next file");
        append(&line(3, "F", "last"));
        RUNNING.store(false, Ordering::SeqCst);
        assert_eq!(lines.recv().await.unwrap().unwrap(), "last\n");
        assert!(lines.recv().await.is_none());
        task.await.unwrap();
    }

    #[tokio::test]
    async fn files_are_found_by_attempt() {
        let dir = TempDir::new();
        assert_eq!(find(dir.path(), false).await, None);
        for name in ["0.log", "9.log", "10.log", "other"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(find(dir.path(), false).await, Some(LogFile(dir.path().join("10.log"))));
        assert_eq!(find(dir.path(), true).await, Some(LogFile(dir.path().join("9.log"))));
    }
}
