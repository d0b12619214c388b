"""A gallery: the vectors of indexed images, and the search over them."""
