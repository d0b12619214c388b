"""Where manifests come from: one module an origin."""
