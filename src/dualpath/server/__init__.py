"""The HTTP server: an API and a web page to search a gallery."""
