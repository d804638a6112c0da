//! The portolan binary: command line, configuration, composition.
fn main() {}
