"""Loss functions, one module each."""
