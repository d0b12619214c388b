"""The engines that store the rows of a gallery: LanceDB in a folder, or a Milvus server."""
