//! What every component's loop is made of: caches fed by watches, keyed reconcile drivers, back-off, events,
//! readiness, owned tasks, and the transports that reach the API.
//!
//! Level-triggered throughout: a change says "look again at this key", never "this is what changed". Not responsible
//! for any decision about an object: reconcilers hold those.

pub mod backoff;
pub mod cache;
pub mod driver;
pub mod events;
pub mod informer;
pub mod key;
pub mod objects;
pub mod probes;
pub mod queue;
pub mod readiness;
pub mod tasks;
pub mod transport;

pub use backoff::Backoff;
pub use cache::{Cache, Change};
pub use driver::{Driver, Next, Reconcile};
pub use events::{Note, NoteKind, Recorder};
pub use informer::Informer;
pub use key::Key;
pub use objects::{Deletion, Objects, WriteError};
pub use queue::Queue;
pub use readiness::{Gate, Readiness};
pub use tasks::Tasks;
