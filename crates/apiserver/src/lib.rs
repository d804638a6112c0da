//! The Kubernetes API server over a Store.
