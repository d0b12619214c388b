"""Publishing a gallery as a folder of static files that searches in the browser."""
