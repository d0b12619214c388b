"""The networks: image encoder, text encoders and the two together."""
