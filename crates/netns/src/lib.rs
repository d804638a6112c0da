//! Network namespaces, veth pairs, bridges, routes, sockets inside a namespace.
