//! Service, Pods and existing slices become a SlicePlan; hints; mirroring; legacy Endpoints.
