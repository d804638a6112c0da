//! One process per container, and a node's init: the only user of libcontainer.
