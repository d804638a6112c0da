//! What tests share: throw-away namespaces, an in-process control plane, scenario scripts.
