//! A file system that is really full, and one that is really read-only: a tmpfs in a mount namespace of the test's own.

use std::io::Write;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use store::{Embedded, Error, Obstacle, Op, OpenError, Outcome, Revision, Store, Txn};

use crate::{Scratch, open, runtime};

/// Unmounts when dropped: the directory below it can't be removed before.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Mounts a small tmpfs that only this thread, and those it starts, can see.
fn small_disk(directory: &Path) -> SmallDisk {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs CAP_SYS_ADMIN: run the tests as root");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=2m")).unwrap();
    SmallDisk(directory.to_owned())
}

async fn put(store: &Embedded, n: usize) -> Result<Outcome, Error> {
    let value = vec![u8::try_from(n % 251).unwrap(); 3_000];
    store.txn(Txn { compares: vec![], ops: vec![Op::put(format!("/k{}", n % 20), value)] }).await
}

#[test]
fn a_full_disk_is_named_and_writing_goes_on_when_there_is_room() {
    let scratch = Scratch::new("full");
    let directory = scratch.directory("small");
    let _disk = small_disk(&directory);
    let store = open(&directory).unwrap();
    let ballast = directory.join("ballast");
    runtime().block_on(async {
        for n in 0..20 {
            assert!(matches!(put(&store, n).await, Ok(Outcome::Committed(_))));
        }
        for round in 0..3 {
            let mut file = std::fs::File::create(&ballast).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
            drop(file);
            let before = store.revision().await.unwrap();
            let mut refused = 0;
            // What the log has room for is still taken.
            for n in 0..400 {
                match put(&store, n).await {
                    Ok(_) => {}
                    Err(Error::NotWritten { obstacle: Obstacle::Full, .. }) => refused += 1,
                    Err(other) => panic!("round {round}: {other:?}"),
                }
                assert!(store.get("/k3").await.unwrap().is_some());
            }
            assert!(refused > 300, "round {round}: {refused} refused");
            assert!(store.revision().await.unwrap() < Revision(before.0 + 100));
            std::fs::remove_file(&ballast).unwrap();
            let newest = store.revision().await.unwrap();
            let after = put(&store, 7).await.unwrap_or_else(|error| panic!("round {round}: {error}: {error:?}"));
            assert_eq!(after, Outcome::Committed(newest.next()), "round {round}");
        }
    });
    let newest = runtime().block_on(store.revision()).unwrap();
    drop(store);
    let store = open(&directory).unwrap();
    assert_eq!(runtime().block_on(store.revision()).unwrap(), newest);
}

#[test]
fn a_read_only_disk_is_named_when_the_store_is_opened() {
    let scratch = Scratch::new("readonly");
    let directory = scratch.directory("small");
    let _disk = small_disk(&directory);
    drop(open(&directory).unwrap());
    let none = None::<&str>;
    mount(none, &directory, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
    let error = open(&directory).err().unwrap();
    let OpenError::Lock { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mount(none, &directory, none, MsFlags::MS_REMOUNT, none).unwrap();
    drop(open(&directory).unwrap());
}
