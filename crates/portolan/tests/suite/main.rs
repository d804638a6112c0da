//! Whole systems, each on a machine of its own: in one program, which is linked once. What disturbs its surroundings or counts
//! on their peace has a program for itself beside it.

mod images;
mod kubectl;
mod lifecycle;
mod manners;
mod myapp;
mod three_nodes;
mod ways;

const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");
const MYAPP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/myapp");
