//! `portolan down`: ends a system, whether it runs or crashed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::Signal;

use crate::cli::Down;
use crate::system::{DataDir, Process, Record, clear};

/// Longer than the nodes' own grace for their pods.
const PATIENCE: Duration = Duration::from_secs(45);

/// Asks the supervisor to end and waits for it; then clears away what a crash left, and the data if that is asked for.
pub async fn down(options: &Down) -> Result<ExitCode> {
    let dir = DataDir::open(&options.system.data_dir)?;
    dir.check_ours()?;
    if dir.locked()? {
        let Some(record) = Record::load(&dir)? else {
            bail!("a system is just starting or ending on {}: try again", dir.path().display());
        };
        if let Some(supervisor) = Process::open(record.supervisor) {
            supervisor.signal(Signal::TERM)?;
            eprintln!("waiting for process {} to end", record.supervisor);
            if !supervisor.wait(PATIENCE)? {
                bail!(
                    "process {} has not ended after {} s; kill it, then call `down` again",
                    record.supervisor,
                    PATIENCE.as_secs()
                );
            }
        }
    }
    let lock = dir.lock()?;
    if let Some(record) = Record::load(&dir)? {
        eprintln!("clearing away what process {} left", record.supervisor);
        clear(&dir, &record).await?;
    }
    if options.purge {
        dir.remove(lock)?;
        eprintln!("nothing runs on {} any more, and its data is removed", dir.path().display());
    } else {
        eprintln!("nothing runs on {}; its objects are kept there (--purge removes them)", dir.path().display());
    }
    Ok(ExitCode::SUCCESS)
}
