//! libFuzzer with one of the targets: `FUZZ_TARGET` names it. Built and run by `cargo xtask fuzz`.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = fuzz_targets::TARGETS.iter().find(|target| target.name == wanted);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET={wanted:?} names no target")).run
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
