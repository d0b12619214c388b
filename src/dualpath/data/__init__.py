"""Manifests, images, captions, tokenizers and caches. Nothing here imports torch."""
