//! Bounds the files in the log directory, which others hold open for as long as they run. Says nothing about what is
//! logged.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// What a log may grow to, in bytes. Its older part, `NAME.log.1`, is as long at most.
const LONGEST: u64 = 16 << 20;

/// Moves what is in each overlong log to `NAME.log.1`. The files stay the same ones, since their writers append to them
/// (`O_APPEND`); a line that is written meanwhile may be lost.
pub fn bound(directory: &Path) -> io::Result<()> {
    bound_to(directory, LONGEST)
}

fn bound_to(directory: &Path, longest: u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") || fs::metadata(&path)?.len() <= longest {
            continue;
        }
        let mut older = path.clone().into_os_string();
        older.push(".1");
        let mut log = OpenOptions::new().read(true).write(true).open(&path)?;
        io::copy(&mut log, &mut File::create(older)?)?;
        log.set_len(0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_overlong_log_is_moved_and_its_writer_goes_on() {
        let dir = std::env::temp_dir().join(format!("portolan-logs-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let mut writer = OpenOptions::new().create(true).append(true).open(dir.join("node-1.log")).unwrap();
        fs::write(dir.join("short.log"), "short").unwrap();
        writer.write_all(b"a long story\n").unwrap();
        bound_to(&dir, 10).unwrap();
        writer.write_all(b"goes on\n").unwrap();
        assert_eq!((read("node-1.log.1").as_str(), read("node-1.log").as_str()), ("a long story\n", "goes on\n"));
        bound_to(&dir, 10).unwrap();
        assert_eq!((read("node-1.log.1").as_str(), read("short.log").as_str()), ("a long story\n", "short"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
        fs::remove_dir_all(&dir).unwrap();
    }
}
