//! What every component's loop is made of: reconcile driver, work queue, back-off, clock, drain, readiness, events, API transports.

pub mod transport;
