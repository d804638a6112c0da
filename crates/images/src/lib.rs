//! Images: references, store, tar import, layers, the built-in image.
