//! nf_tables objects, transactions, a strict fake kernel and a packet tracer.
