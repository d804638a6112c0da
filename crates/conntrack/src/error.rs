//! What can go wrong, by step.

#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    #[error("cannot open a socket to connection tracking")]
    Open(#[source] netlink::Error),
    #[error("cannot list flows")]
    List(#[source] netlink::Error),
    #[error("cannot delete a flow")]
    Delete(#[source] netlink::Error),
    #[error("cannot count flows")]
    Count(#[source] netlink::Error),
}
