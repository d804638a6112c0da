//! What can go wrong, by the step that failed.

use std::io;

/// A failed step on the way to a relay.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error("cannot program the fabric's rules (nf_tables with tproxy is needed): {0}")]
    Rules(#[from] nft::NftError),
    #[error("cannot make a transparent socket in the fabric: {0}")]
    Socket(#[source] io::Error),
}
