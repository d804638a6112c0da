//! Connection tracking: list flows by filter, delete them.
