//! Whether a node may have a pod and has room for it. The scheduler asks before it binds a pod, and the node asks again of
//! pods that come to it, for whoever sets `spec.nodeName` asks no scheduler.
//!
//! Not responsible for choosing among nodes.

mod fit;
mod resources;

pub use fit::{Verdict, judge, selects, tolerates};
pub use resources::{Demand, Shortage, Taken, demand, lacks, ports_clash, shortages};
