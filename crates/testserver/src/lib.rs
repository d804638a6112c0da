//! The server inside the built-in test image.
