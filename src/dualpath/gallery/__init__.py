"""The vector index: one small interface, an embedded store, a cluster store."""
