"""Opening the store of an address. A new engine is added here."""

from dualpath.errors import GalleryError
from dualpath.gallery.stores.base import Store


def open_store(address: str) -> Store:
    """Open the store of a gallery.

    Args:
        address: a folder (Lance), or ``http://HOST:PORT/NAME`` (Milvus).

    Raises:
        GalleryError: the address is not valid, or its server cannot be reached.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        from dualpath.gallery.stores.lance import LanceStore

        return LanceStore(address)
    if scheme in ("http", "https", "tcp"):
        try:
            from dualpath.gallery.stores.milvus import MilvusStore
        except ImportError as error:
            raise GalleryError(
                "a gallery in Milvus requires its client: pip install 'dualpath[milvus]'"
            ) from error
        return MilvusStore(address)
    raise GalleryError(
        f"{address}: not the address of a gallery; give a folder, or http://HOST:PORT/NAME of a "
        "Milvus server"
    )
