//! One function per kind of foreign bytes: it may do with them whatever the product does, and must not panic, hang or
//! write where it may not.
//!
//! `fuzz/` gives them bytes that a fuzzer makes up; `tests/corpus.rs` gives them every input that is kept. A step that
//! can't fail ends with a panic, which is what both look for. Not responsible for whether answers are right.

mod files;
mod kinds;
mod network;
mod requests;
mod tars;

pub use files::corefile;
pub use kinds::{json, patches, protobuf, selectors};
pub use network::{dns, netlink};
pub use requests::{requests, tokens};
pub use tars::images;

/// A target by the name of its folder in `fuzz/corpus`.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "json", run: json },
    Target { name: "protobuf", run: protobuf },
    Target { name: "patches", run: patches },
    Target { name: "selectors", run: selectors },
    Target { name: "requests", run: requests },
    Target { name: "tokens", run: tokens },
    Target { name: "dns", run: dns },
    Target { name: "corefile", run: corefile },
    Target { name: "netlink", run: netlink },
    Target { name: "images", run: images },
];

/// The first byte chooses among `choices`; the rest is what is fed to the choice.
fn choose<'a, T>(bytes: &'a [u8], choices: &'a [T]) -> Option<(&'a T, &'a [u8])> {
    let (first, rest) = bytes.split_first()?;
    choices.get(usize::from(*first) % choices.len()).map(|choice| (choice, rest))
}
