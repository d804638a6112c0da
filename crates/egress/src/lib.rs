//! The way from a network namespace to what is outside of it, seen from there as an ordinary router: a connection is
//! there when the real one is, and what refuses or can't be reached outside refuses or can't be reached inside.
//!
//! The namespace in the middle (the fabric) takes in whatever is sent to addresses that aren't its own. `Relay` opens
//! the same connections and flows from the caller's own network and copies between the two; `refuse` says no at once.
//! Nothing is changed outside the fabric. Not responsible for who may send anything to the fabric, nor for names.

mod error;
mod packet;
mod pump;
mod relay;
mod rules;
mod seldom;
mod target;
mod tcp;
mod udp;

pub use error::Error;
pub use relay::Relay;
pub use rules::refuse;
pub use target::{Reach, reach};
