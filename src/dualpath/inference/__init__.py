"""A trained model: the bundle on disk, the runtimes that execute it, and its embeddings."""
