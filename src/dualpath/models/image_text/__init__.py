"""Pretrained image-text models (CLIP, SigLIP and their like) as the two encoders of a bundle."""
