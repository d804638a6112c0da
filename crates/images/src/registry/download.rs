//! One blob into a file: continued where an earlier try broke off (also one of another process), and kept only when it has
//! the size and the digest it should have.
//!
//! Not responsible for which blobs an image has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_RANGE;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::PullError;
use super::session::{ATTEMPTS, Ask, Session};
use super::transport::Answer;
use crate::digest::Digest;

/// Pieces between the network and the disk.
const QUEUE: usize = 16;
/// How often to look whether another process is through with the same blob.
const TURN: Duration = Duration::from_millis(100);

/// A blob that is there, whole. Its file is locked, and gone with the value.
pub(crate) struct Downloaded {
    path: PathBuf,
    file: File,
}

/// A file that grows, with the digest of what is in it.
struct Growing {
    file: File,
    hash: Sha256,
    length: u64,
}

impl Downloaded {
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl Drop for Downloaded {
    fn drop(&mut self) {
        // Still locked: nobody else is writing it.
        let _ = fs::remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Gets the blob into `path`. `done` counts bytes.
pub(crate) async fn blob(
    session: &Session<'_>,
    digest: &Digest,
    size: u64,
    path: &Path,
    done: &AtomicU64,
) -> Result<Downloaded, PullError> {
    let at = |step| move |source| PullError::File { step, path: path.to_owned(), source };
    let mut growing = resume(path).await.map_err(at("open"))?;
    if growing.length > size {
        growing.restart().map_err(at("empty"))?;
    }
    let mut counted = 0;
    let mut attempt = 1;
    while growing.length < size || size == 0 {
        let before = growing.length;
        let (after, result) = more(session, digest, size, growing, done, &mut counted).await.map_err(at("write"))?;
        growing = after;
        match result {
            Ok(()) => break,
            Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                tracing::info!(%error, blob = %digest, at = growing.length, "continuing a download");
                attempt = if growing.length > before { 1 } else { attempt + 1 };
            }
            Err(error) => return Err(error),
        }
    }
    done.fetch_add(growing.length.saturating_sub(counted), Ordering::Relaxed);
    let (length, file) = (growing.length, growing.file);
    let actual = Digest::from_hash(growing.hash);
    let downloaded = Downloaded { path: path.to_owned(), file };
    let what = format!("blob {digest}");
    if length != size {
        return Err(PullError::Length { what, expected: size, actual: length });
    }
    if actual != *digest {
        return Err(PullError::Mismatch { what, expected: digest.clone(), actual });
    }
    Ok(downloaded)
}

/// Takes the file for this download, and adds up what is in it already.
async fn resume(path: &Path) -> io::Result<Growing> {
    loop {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                // Another pull of the same blob: whatever comes of it, there is nothing to hear about its end.
                tokio::time::sleep(TURN).await;
                continue;
            }
            Err(errno) => return Err(errno.into()),
        }
        // Whoever had it may have removed it from under its name.
        let same = fs::metadata(path).is_ok_and(|named| same_file(&named, &file));
        if same {
            return spawn_blocking(move || Growing::of(file)).await.map_err(io::Error::other)?;
        }
    }
}

fn same_file(named: &fs::Metadata, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// One request, from where the file ends. The file is given back however that ends.
async fn more(
    session: &Session<'_>,
    digest: &Digest,
    size: u64,
    mut growing: Growing,
    done: &AtomicU64,
    counted: &mut u64,
) -> io::Result<(Growing, Result<(), PullError>)> {
    let name = digest.to_string();
    let ask = Ask { kind: "blobs", what: &name, accept: "*/*", from: growing.length };
    let mut answer = match session.get(&ask).await {
        Ok(answer) => answer,
        Err(PullError::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) if growing.length > 0 => {
            growing.restart()?;
            return Ok((growing, Err(short(digest))));
        }
        Err(error) => return Ok((growing, Err(error))),
    };
    if growing.length > 0 && !continues(&answer, growing.length) {
        growing.restart()?;
    }
    done.fetch_add(growing.length.saturating_sub(*counted), Ordering::Relaxed);
    *counted = (*counted).max(growing.length);
    let mut position = growing.length;
    let (pieces, writing) = growing.write();
    let result = loop {
        match answer.chunk().await {
            Ok(Some(piece)) => {
                position += piece.len() as u64;
                if position > size {
                    break Err(PullError::Length { what: format!("blob {digest}"), expected: size, actual: position });
                }
                if position > *counted {
                    done.fetch_add(position - *counted, Ordering::Relaxed);
                    *counted = position;
                }
                if pieces.send(piece).await.is_err() {
                    // The writer has failed, and says how below.
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    drop(pieces);
    let growing = writing.await.map_err(io::Error::other)??;
    let cut = result.is_ok() && growing.length < size;
    Ok((growing, if cut { Err(short(digest)) } else { result }))
}

/// What a body that ends too early, or a range that is refused, amounts to: to be asked again.
fn short(digest: &Digest) -> PullError {
    PullError::Short { what: format!("blob {digest}") }
}

/// Whether the answer starts where it was asked to.
fn continues(answer: &Answer, from: u64) -> bool {
    let start = || answer.header(CONTENT_RANGE)?.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok();
    answer.status == StatusCode::PARTIAL_CONTENT && start() == Some(from)
}

impl Growing {
    fn of(mut file: File) -> io::Result<Self> {
        let (mut hash, mut length) = (Sha256::new(), 0);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self { file, hash, length }),
                count => {
                    hash.update(&buffer[..count]);
                    length += count as u64;
                }
            }
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hash, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    /// Writes what is sent, away from the threads that other tasks need.
    fn write(mut self) -> (mpsc::Sender<Bytes>, JoinHandle<io::Result<Self>>) {
        let (sender, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
        let writing = spawn_blocking(move || {
            while let Some(piece) = pieces.blocking_recv() {
                self.file.write_all(&piece)?;
                self.hash.update(&piece);
                self.length += piece.len() as u64;
            }
            Ok(self)
        });
        (sender, writing)
    }
}
