//! The embedded PodRuntime: namespaces, overlay, one shim per container.
