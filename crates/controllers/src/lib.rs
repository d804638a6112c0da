//! The controllers: slices, workloads, garbage, namespaces, scheduling, nodes.
