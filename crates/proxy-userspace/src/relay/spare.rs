//! Things that are dear to make and needed for a moment, kept for the next who needs one.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) struct Spares<T> {
    kept: Mutex<Vec<T>>,
    most: usize,
    make: fn() -> io::Result<T>,
}

impl<T> Spares<T> {
    pub fn new(most: usize, make: fn() -> io::Result<T>) -> Spares<T> {
        Spares { kept: Mutex::default(), most, make }
    }

    pub fn take(&self) -> io::Result<T> {
        let kept = self.lock().pop();
        kept.map_or_else(self.make, Ok)
    }

    /// Takes back one that is as it was.
    pub fn give(&self, one: T) {
        let mut kept = self.lock();
        if kept.len() < self.most {
            kept.push(one);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
