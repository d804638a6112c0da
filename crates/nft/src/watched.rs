//! A handle that tells its own commits from those of strangers, by the kernel's generation: whoever plans from what he read
//! knows whether it still holds.

use crate::object::Table;
use crate::ruleset::Ruleset;
use crate::transaction::{Generation, Transaction};
use crate::{Nft, NftError};

/// Counts the times somebody else was seen to have written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

pub struct Watched<N> {
    nft: N,
    /// After the last commit or dump of ours; None when the next look has to find out.
    generation: Option<Generation>,
    epoch: Epoch,
}

impl<N: Nft> Watched<N> {
    pub fn new(nft: N) -> Watched<N> {
        Watched { nft, generation: None, epoch: Epoch::default() }
    }

    /// What was read in another epoch may not be so any more.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The handle itself. What is committed with it counts as a stranger's.
    pub fn handle(&mut self) -> &mut N {
        &mut self.nft
    }

    /// Begins a new epoch if somebody else has written since the last look.
    pub fn notice_strangers(&mut self) -> Result<(), NftError> {
        let now = self.nft.generation()?;
        self.found(now);
        Ok(())
    }

    /// Reads a table; `None` if it isn't there.
    pub fn dump(&mut self, table: &Table) -> Result<Option<Ruleset>, NftError> {
        let ruleset = self.nft.dump(table)?;
        if let Some(ruleset) = &ruleset {
            self.found(ruleset.generation);
        }
        Ok(ruleset)
    }

    fn found(&mut self, now: Generation) {
        if self.generation != Some(now) {
            self.epoch.0 += 1;
            self.generation = Some(now);
        }
    }

    /// Commits what was planned in this epoch: the kernel refuses it when a stranger was faster. After any failure
    /// everything has to be read again.
    pub fn commit(&mut self, transaction: Transaction) -> Result<(), NftError> {
        let committed = self.try_commit(transaction);
        if committed.is_err() {
            self.epoch.0 += 1;
            self.generation = None;
        }
        committed
    }

    /// The same, where what is known holds after a refusal, too.
    pub fn try_commit(&mut self, mut transaction: Transaction) -> Result<(), NftError> {
        if transaction.is_empty() {
            return Ok(());
        }
        transaction.base = self.generation;
        self.generation = Some(self.nft.apply(&transaction)?.generation);
        Ok(())
    }

    /// Deletes a table, whoever has written in the meantime, and whether or not it is there.
    pub fn destroy(&mut self, table: Table) -> Result<(), NftError> {
        let mut transaction = Transaction::new(table);
        transaction.destroy_table();
        self.nft.apply(&transaction)?;
        self.generation = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fake, Family};

    fn adding(name: &str) -> Transaction {
        let mut transaction = Transaction::new(Table::new(Family::Ip, name));
        transaction.add_table();
        transaction
    }

    #[test]
    fn a_stranger_begins_an_epoch_and_own_commits_do_not() {
        let mut watched = Watched::new(Fake::default());
        watched.notice_strangers().unwrap();
        let first = watched.epoch();
        watched.commit(adding("ours")).unwrap();
        watched.notice_strangers().unwrap();
        assert!(watched.dump(&Table::new(Family::Ip, "ours")).unwrap().is_some());
        assert_eq!(watched.epoch(), first);
        watched.handle().apply(&adding("theirs")).unwrap();
        watched.notice_strangers().unwrap();
        assert_ne!(watched.epoch(), first);
    }

    #[test]
    fn a_plan_that_a_stranger_was_faster_than_is_refused() {
        let mut watched = Watched::new(Fake::default());
        watched.notice_strangers().unwrap();
        let first = watched.epoch();
        watched.handle().apply(&adding("theirs")).unwrap();
        assert!(watched.commit(adding("ours")).is_err());
        assert_ne!(watched.epoch(), first);
        assert!(watched.dump(&Table::new(Family::Ip, "ours")).unwrap().is_none());
        watched.notice_strangers().unwrap();
        watched.commit(adding("ours")).unwrap();
    }
}
