//! A tar archive's entries, one after the other, with a bound to what a reader of tar takes into memory: long names and
//! attributes are entries of their own that precede what they belong to, and are read whole.
//!
//! Not responsible for what becomes of an entry.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, Entry, Header};

/// What may be between two entries: the longest path of Linux twice (PATH_MAX), and attributes of 64 KiB each
/// (XATTR_SIZE_MAX), with plenty of room.
const BETWEEN_MAX: u64 = 1 << 20;
/// What archives are made of.
pub(crate) const BLOCK: usize = 512;

/// What an archive is read from: gives no more than is allowed at the moment.
pub(crate) struct Metered<R> {
    inner: R,
    allowed: Rc<Cell<u64>>,
}

/// Hands over each entry; afterwards gives back the reader, which may have more after the archive's end mark.
pub(crate) fn for_each<R: Read, E>(
    reader: R,
    unreadable: impl Fn(io::Error) -> E,
    mut take: impl FnMut(&mut Entry<'_, Metered<R>>) -> Result<(), E>,
) -> Result<R, E> {
    let allowed = Rc::new(Cell::new(BETWEEN_MAX));
    let mut archive = Archive::new(Metered { inner: reader, allowed: allowed.clone() });
    let mut entries = archive.entries().map_err(&unreadable)?;
    loop {
        allowed.set(BETWEEN_MAX);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(&unreadable)?;
        allowed.set(u64::MAX);
        take(&mut entry)?;
        // What is left of it isn't between two entries.
        io::copy(&mut entry, &mut io::sink()).map_err(&unreadable)?;
    }
    Ok(archive.into_inner().inner)
}

/// Whether an archive can begin so: its first header has the sum it says (pax(1), "ustar Interchange Format").
pub(crate) fn begins(first: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    if first.len() != BLOCK {
        return false;
    }
    let byte = |(at, byte): (usize, &u8)| u32::from(if SUM.contains(&at) { b' ' } else { *byte });
    Header::from_byte_slice(first).cksum().is_ok_and(|said| said == first.iter().enumerate().map(byte).sum::<u32>())
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed.get();
        if allowed == 0 && !buffer.is_empty() {
            let what = format!("a name or attributes of more than {} KiB", BETWEEN_MAX >> 10);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        if allowed != u64::MAX {
            self.allowed.set(allowed - read as u64);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use tar::{Builder, EntryType};

    use super::*;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn names(archive: impl Read) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for_each(
            archive,
            |error| error.to_string(),
            |entry| {
                names.push(String::from_utf8_lossy(&entry.path_bytes()).into_owned());
                Ok(())
            },
        )?;
        Ok(names)
    }

    #[test]
    fn a_long_name_is_taken_and_an_endless_one_refused_before_it_is_read() {
        let long = format!("{}/file", "d".repeat(3000));
        let mut archive = Builder::new(Vec::new());
        let content = vec![7; 3 << 20];
        archive.append_data(&mut header(EntryType::Regular, content.len() as u64), &long, &content[..]).unwrap();
        archive.append_data(&mut header(EntryType::Regular, 0), "after", &[][..]).unwrap();
        assert_eq!(names(&archive.into_inner().unwrap()[..]).unwrap(), [long, "after".to_owned()]);
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let header = header(kind, 2 << 30);
            let refused = names(header.as_bytes().chain(io::repeat(b'a').take(2 << 30))).unwrap_err();
            assert!(refused.contains("1024 KiB"), "{refused}");
        }
    }

    #[test]
    fn an_archive_is_told_by_its_first_header() {
        assert!(begins(header(EntryType::Regular, 0).as_bytes()));
        assert!(!begins(&[b'a'; BLOCK]) && !begins(&[0; BLOCK]) && !begins(b"short"));
    }
}
