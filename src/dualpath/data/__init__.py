"""Manifests, pictures, captions and the batches made of them."""
