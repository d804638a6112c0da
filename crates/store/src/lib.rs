//! MVCC key-value store: revisions, snapshots, transactions, watch; in memory, durable in SQLite.
