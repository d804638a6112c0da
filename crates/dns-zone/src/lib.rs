//! DNS wire codec, names, and the answers of the cluster zone.
