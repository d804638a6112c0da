//! The nftables backend: flat shared maps over netlink.
