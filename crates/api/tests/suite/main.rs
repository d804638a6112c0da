//! The crate from outside, all in one program, which is linked once.

mod recorded;
mod round_trip;
