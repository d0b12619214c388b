"""The engines that store the rows of a gallery: Lance in a folder, or a Milvus server."""

import os

# Lance reads this when it is imported. Its warnings are about its own future versions.
os.environ.setdefault("LANCE_LOG", "error")
