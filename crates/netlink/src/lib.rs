//! Netlink framing and sockets, nf_tables and conntrack message codecs.
