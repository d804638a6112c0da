//! The Service proxy: Backend trait, Syncer, watch into the model, conntrack clean-up.
