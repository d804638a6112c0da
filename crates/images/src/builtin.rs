//! The image that is always there: a root with next to nothing in it, and this executable as `/testserver`.
//!
//! The executable isn't copied: whoever runs the image binds it, read-only, over an empty file. Not responsible for what
//! the executable does there.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::manifest::{ImageConfig, ImageDocument, RootFs, architecture};

/// Its name without a tag, whichever that may be.
pub(crate) const TESTSERVER_REPOSITORY: &str = "portolan.local/testserver";
/// Its normalised name.
pub const TESTSERVER: &str = "portolan.local/testserver:latest";

/// Where the executable appears in a container.
pub(crate) const PROGRAM: &str = "/testserver";

const DIRECTORIES: [(&str, u32); 13] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/run", 0o755),
    ("var/tmp", 0o1777),
];

const FILES: [(&str, &str, u32); 4] = [
    ("etc/passwd", "root:x:0:0:root:/root:/testserver\nnobody:x:65534:65534:nobody:/:/testserver\n", 0o644),
    ("etc/group", "root:x:0:\nnobody:x:65534:\n", 0o644),
    ("etc/nsswitch.conf", "hosts: files dns\n", 0o644),
    ("testserver", "", 0o755),
];

/// The configuration document. Its layer's diff id is of this module's tables, since there is no archive.
pub(crate) fn document() -> ImageDocument {
    ImageDocument {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: ImageConfig {
            entrypoint: vec![PROGRAM.to_owned()],
            env: vec!["PATH=/:/bin:/usr/bin".to_owned()],
            working_dir: "/".to_owned(),
            ..ImageConfig::default()
        },
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![Digest::of(format!("{DIRECTORIES:?}{FILES:?}").as_bytes())],
        },
    }
}

/// Fills an empty directory.
pub(crate) fn write_root(directory: &Path) -> io::Result<()> {
    for (name, mode) in DIRECTORIES {
        let path = directory.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for (name, content, mode) in FILES {
        let path = directory.join(name);
        let mut file = fs::File::create(&path)?;
        file.write_all(content.as_bytes())?;
        // Written once and never looked into again: a machine's crash must not leave it empty.
        file.sync_all()?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

/// This very program's file.
pub(crate) fn own_executable() -> io::Result<PathBuf> {
    fs::read_link("/proc/self/exe")
}
