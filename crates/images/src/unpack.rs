//! One layer's archive as a directory that overlay takes as a lower one: whiteouts become what overlay calls them.
//!
//! Nothing outside the directory is touched, whatever the archive says: every path is resolved by the kernel with the
//! directory as root (openat2(2), Linux 5.6). Not responsible for compression and digests.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, linkat, makedev, mkdirat, mknodat, openat, openat2, setxattr, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use crate::entries;
use crate::error::{ImageError, io_at, path_at};

/// A file of this prefix deletes what it names (OCI image specification, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// Hides all that lower layers have in this directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Reads the archive to its end and leaves its content in `directory`. `layer` names it in errors.
pub(crate) fn unpack(archive: impl Read, directory: &Path, layer: &str) -> Result<(), ImageError> {
    let root = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(io_at("open a layer's directory"))?;
    let mut root = Layer { root, times: Vec::new() };
    let unreadable = |error: io::Error| path_at("read", layer)(error);
    let mut rest = entries::for_each(archive, unreadable, |entry| {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        root.add(entry).map_err(|source| ImageError::Entry { layer: layer.to_owned(), entry: name, source })
    })?;
    root.finish();
    // What follows the archive's end mark belongs to the digest.
    io::copy(&mut rest, &mut io::sink()).map_err(path_at("read", layer))?;
    Ok(())
}

struct Layer {
    root: OwnedFd,
    /// Of directories: set last, since filling them changes them.
    times: Vec<(PathBuf, Timestamps)>,
}

impl Layer {
    fn add<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(
            kind,
            EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink
        ) {
            return Ok(());
        }
        let path = clean(&entry.path()?)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The layer's own root: its mode matters, its place is given.
            let mode = entry.header().mode()? & 0o7777;
            return Ok(fchmod(&self.root, Mode::from_raw_mode(mode))?);
        };
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        if name.as_bytes() == OPAQUE {
            return set_opaque(&parent);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return whiteout(&parent, OsStr::from_bytes(hidden));
        }
        let was_whiteout = clear(&parent, &name, kind == EntryType::Directory)?;
        match kind {
            EntryType::Directory => make_directory(&parent, &name)?,
            EntryType::Symlink => symlinkat(link(entry)?.as_os_str(), &parent, &name)?,
            EntryType::Link => return self.hard_link(entry, &parent, &name),
            EntryType::Char | EntryType::Block | EntryType::Fifo => make_node(entry, kind, &parent, &name)?,
            _ => write_file(entry, &parent, &name)?,
        }
        set_attributes(entry, &parent, &name, kind)?;
        let times = times(entry);
        if kind == EntryType::Directory {
            if was_whiteout {
                set_opaque(&openat(
                    &parent,
                    &name,
                    OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?)?;
            }
            self.times.push((path, times));
            return Ok(());
        }
        Ok(utimensat(&parent, &name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The directory of this path inside the layer; missing ones are made, as archives may leave them out.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlags::DIRECTORY | OFlags::RDONLY) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let mut so_far = PathBuf::new();
        for component in path.components() {
            let parent = self.resolve(&so_far, OFlags::DIRECTORY | OFlags::RDONLY)?;
            make_directory(&parent, component.as_os_str())?;
            so_far.push(component);
        }
        Ok(self.resolve(path, OFlags::DIRECTORY | OFlags::RDONLY)?)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), inside)
    }

    fn hard_link<R: Read>(&self, entry: &Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let target = clean(&link(entry)?)?;
        let target_name = target.file_name().ok_or_else(|| invalid("a hard link to the root"))?;
        let target_parent =
            self.resolve(target.parent().unwrap_or(Path::new("")), OFlags::DIRECTORY | OFlags::RDONLY)?;
        Ok(linkat(&target_parent, target_name, parent, name, AtFlags::empty())?)
    }

    fn finish(&self) {
        for (path, times) in self.times.iter().rev() {
            // A later entry may have replaced the directory; times are no reason to refuse a layer.
            if let Ok(directory) = self.resolve(path, OFlags::DIRECTORY | OFlags::RDONLY) {
                let _ = rustix::fs::futimens(&directory, times);
            }
        }
    }
}

/// The path relative to the root; `..` is refused.
fn clean(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid("its path leads out of the image (\"..\")"));
            }
        }
    }
    Ok(clean)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn link<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    let target = entry.link_name()?.ok_or_else(|| invalid("a link without a target"))?;
    Ok(target.into_owned())
}

/// Makes room for an entry; says whether a whiteout was in its place.
fn clear(parent: &OwnedFd, name: &OsStr, directory: bool) -> io::Result<bool> {
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if directory => Ok(false),
        FileType::Directory => {
            // Only an empty one: a layer that replaces a directory of its own by a file is not a sensible layer.
            unlinkat(parent, name, AtFlags::REMOVEDIR)?;
            Ok(false)
        }
        kind => {
            unlinkat(parent, name, AtFlags::empty())?;
            Ok(kind == FileType::CharacterDevice && stat.st_rdev == 0)
        }
    }
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Overlay's whiteout is a character device 0:0.
fn whiteout(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(invalid("a whiteout of nothing"));
    }
    match mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        // This layer has the file itself: it wins.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn set_opaque(directory: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())?)
}

fn make_node<R: Read>(entry: &Entry<'_, R>, kind: EntryType, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let header = entry.header();
    let device = makedev(number(header.device_major()), number(header.device_minor()));
    let kind = match kind {
        EntryType::Char if device == 0 => return Err(invalid("a device that overlay takes for a deletion")),
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    Ok(mknodat(parent, name, kind, Mode::from_raw_mode(header.mode()? & 0o777), device)?)
}

fn write_file<R: Read>(entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
    io::copy(entry, &mut file)?;
    file.flush()
}

/// Owner first: changing it clears set-user-id bits and capabilities.
fn set_attributes<R: Read>(
    entry: &mut Entry<'_, R>,
    parent: &OwnedFd,
    name: &OsStr,
    kind: EntryType,
) -> io::Result<()> {
    let header = entry.header();
    let (uid, gid, mode) =
        (id(header.uid().unwrap_or(0))?, id(header.gid().unwrap_or(0))?, Mode::from_raw_mode(header.mode()? & 0o7777));
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if matches!(kind, EntryType::Directory | EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::empty())?;
        fchown(&file, Some(uid), Some(gid))?;
        fchmod(&file, mode)?;
        return set_xattrs(entry, file.as_fd());
    }
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        // A device or pipe must not be opened; through its parent's descriptor the name can't lead elsewhere.
        let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
        chmod(path, mode)?;
    }
    Ok(())
}

/// A field that writers of anything but devices leave blank.
fn number(field: io::Result<Option<u32>>) -> u32 {
    field.ok().flatten().unwrap_or(0)
}

fn id(raw: u64) -> io::Result<u32> {
    u32::try_from(raw).map_err(|_| invalid("an owner that is no user id"))
}

/// PAX records `SCHILY.xattr.NAME`; overlay's own attributes aren't the archive's to set.
fn set_xattrs<R: Read>(entry: &mut Entry<'_, R>, file: BorrowedFd<'_>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else { continue };
        if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
            continue;
        }
        match setxattr(path.as_str(), name, extension.value_bytes(), XattrFlags::empty()) {
            // The file system, or what we may do, decides.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn times<R: Read>(entry: &Entry<'_, R>) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("portolan-unpack-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("layer")).unwrap();
            Self(path)
        }

        fn layer(&self) -> PathBuf {
            self.0.join("layer")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(
        archive: &mut tar::Builder<Vec<u8>>,
        kind: EntryType,
        path: &str,
        mode: u32,
        link: Option<&str>,
        content: &[u8],
    ) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        // `set_path` refuses what a hostile archive would hold.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }

    #[test]
    fn files_keep_their_attributes_and_whiteouts_become_overlays() {
        let scratch = Scratch::new("attributes");
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, EntryType::Directory, "etc/", 0o750, None, b"");
        entry(&mut archive, EntryType::Regular, "etc/app", 0o4755, None, b"content");
        entry(&mut archive, EntryType::Link, "etc/same", 0o644, Some("etc/app"), b"");
        entry(&mut archive, EntryType::Symlink, "etc/soft", 0o777, Some("/etc/app"), b"");
        entry(&mut archive, EntryType::Regular, "etc/.wh.gone", 0, None, b"");
        entry(&mut archive, EntryType::Regular, "var/cache/.wh..wh..opq", 0, None, b"");
        entry(&mut archive, EntryType::Fifo, "etc/pipe", 0o622, None, b"");
        unpack(&archive.into_inner().unwrap()[..], &scratch.layer(), "layer.tar").unwrap();

        let file = fs::metadata(scratch.layer().join("etc/app")).unwrap();
        assert_eq!(
            (file.uid(), file.gid(), file.permissions().mode() & 0o7777, file.mtime()),
            (12, 34, 0o4755, 1_000_000)
        );
        assert_eq!(file.nlink(), 2);
        assert_eq!(fs::metadata(scratch.layer().join("etc")).unwrap().mtime(), 1_000_000);
        assert_eq!(fs::read_link(scratch.layer().join("etc/soft")).unwrap(), Path::new("/etc/app"));
        let gone = fs::symlink_metadata(scratch.layer().join("etc/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let pipe = fs::symlink_metadata(scratch.layer().join("etc/pipe")).unwrap();
        assert!(pipe.file_type().is_fifo() && pipe.permissions().mode() & 0o777 == 0o622);
        let mut value = [0_u8; 4];
        let count = rustix::fs::getxattr(scratch.layer().join("var/cache"), OPAQUE_ATTRIBUTE, &mut value).unwrap();
        assert_eq!(&value[..count], b"y");
    }

    #[test]
    fn nothing_leaves_the_layer() {
        let scratch = Scratch::new("escape");
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, EntryType::Symlink, "out", 0o777, Some("../../.."), b"");
        entry(&mut archive, EntryType::Symlink, "abs", 0o777, Some("/"), b"");
        entry(&mut archive, EntryType::Regular, "out/escaped", 0o644, None, b"x");
        entry(&mut archive, EntryType::Regular, "abs/absolute", 0o644, None, b"x");
        entry(&mut archive, EntryType::Regular, "/rooted", 0o644, None, b"x");
        unpack(&archive.into_inner().unwrap()[..], &scratch.layer(), "layer.tar").unwrap();
        for inside in ["escaped", "absolute", "rooted"] {
            assert!(scratch.layer().join(inside).exists(), "{inside}");
        }
        assert!(!Path::new("/absolute").exists() && !Path::new("/rooted").exists());

        for path in ["../escaped", "a/../../b"] {
            let mut archive = tar::Builder::new(Vec::new());
            entry(&mut archive, EntryType::Regular, path, 0o644, None, b"x");
            let refused = unpack(&archive.into_inner().unwrap()[..], &scratch.layer(), "layer.tar");
            assert!(matches!(refused, Err(ImageError::Entry { .. })), "{path}");
        }
    }

    #[test]
    fn a_layer_may_delete_a_directory_and_make_it_anew() {
        let scratch = Scratch::new("anew");
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, EntryType::Regular, ".wh.data", 0, None, b"");
        entry(&mut archive, EntryType::Directory, "data/", 0o755, None, b"");
        entry(&mut archive, EntryType::Regular, "file", 0o644, None, b"first");
        entry(&mut archive, EntryType::Regular, "file", 0o644, None, b"second");
        unpack(&archive.into_inner().unwrap()[..], &scratch.layer(), "layer.tar").unwrap();
        let mut value = [0_u8; 4];
        assert_eq!(rustix::fs::getxattr(scratch.layer().join("data"), OPAQUE_ATTRIBUTE, &mut value), Ok(1));
        assert_eq!(fs::read(scratch.layer().join("file")).unwrap(), b"second");
    }
}
