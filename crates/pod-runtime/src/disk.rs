//! How much of the disk files take. Not responsible for what may be taken.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The bytes that a directory and everything below it occupy, as `du -sx` counts: blocks, a file with several names
/// once, no other file systems. What vanishes while it is counted, or can't be read, counts as nothing.
pub fn size_of_tree(root: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(root) else { return 0 };
    let mut linked = std::collections::HashSet::new();
    let mut total = top.blocks() * BLOCK;
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.dev() != top.dev() || (found.nlink() > 1 && !found.is_dir() && !linked.insert(found.ino())) {
                continue;
            }
            total += found.blocks() * BLOCK;
            if found.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    total
}

/// stat(2) counts in these, whatever the file system's blocks are.
const BLOCK: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let root = std::env::temp_dir().join(format!("size-of-tree-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        let before = size_of_tree(&root);
        fs::write(root.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink("/", root.join("out")).unwrap();
        let grown = size_of_tree(&root) - before;
        fs::remove_dir_all(&root).unwrap();
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&grown), "{grown}");
        assert_eq!(size_of_tree(&root), 0);
    }
}
