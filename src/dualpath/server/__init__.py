"""A gallery over HTTP, with a page for people."""
