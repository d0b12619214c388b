"""The gallery: an index of images and their captions that can be filled and searched."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dualpath.errors import FilterError, GalleryError
from dualpath.gallery import maintenance, search
from dualpath.gallery.derived.searcher import Found, Searcher, VectorQuery
from dualpath.gallery.filters import Condition
from dualpath.gallery.info import GalleryInfo, read_info, register_fields
from dualpath.gallery.metadata import rewrite_metadata
from dualpath.gallery.model_source import check_model, load_bundle, load_recorded_model, new_info
from dualpath.gallery.schema import IMAGES, CaptionHit, GalleryImage, Hit, to_image
from dualpath.gallery.stores.base import Store
from dualpath.gallery.stores.factory import open_store
from dualpath.inference.suggestions import suggestions
from dualpath.types import DEFAULT_TOP, Progress, Vectors, no_progress

if TYPE_CHECKING:
    from dualpath.gallery.indexing import Indexer, IndexSummary, Runner
    from dualpath.inference.model import DualPath

Query = str | Path | Image.Image


class Gallery:
    """An index of images, captions and their vectors.

    Create one with :meth:`open`. A gallery remembers the folder of its model and loads it when a
    method needs it.

    From the second search on, an index in memory answers, which is built in the background
    (:mod:`dualpath.gallery.derived`). Every search sees what was written before it.

    Attributes:
        address: of the gallery.
        store: the engine that stores the rows.
        info: the model, folders and metadata fields of the gallery.

    Example::

        with dualpath.Gallery.open("photos.db", model="bundle") as gallery:
            gallery.add("photos/")
            for hit in gallery.search("a red bus", top=5):
                print(hit.score, hit.image.path)
    """

    def __init__(
        self,
        address: str,
        store: Store,
        info: GalleryInfo,
        model: "DualPath | None",
        *,
        exists: bool,
    ) -> None:
        self.address = address
        self.store = store
        self.info = info
        self._model = model
        self._exists = exists
        self._searcher = Searcher(store)

    @classmethod
    def open(
        cls, address: str | Path, *, model: "DualPath | str | Path | None" = None
    ) -> "Gallery":
        """Open a gallery. If it does not exist, the first image that is added creates it.

        Args:
            address: a folder (Lance), or ``http://HOST:PORT/NAME`` (Milvus).
            model: a model, or what :func:`dualpath.load` accepts: the folder or hub id of a bundle
                or of a pretrained image-text model. None: the model that filled the gallery,
                loaded when a method needs it.

        Raises:
            GalleryError: the gallery does not exist and ``model`` is None, another model has filled
                it, or it cannot be read.
            BundleError: the bundle does not exist or is damaged.
        """
        address = str(address)
        store = open_store(address)
        info = read_info(store, address)
        if isinstance(model, str | Path):
            model = load_bundle(model)
        if info is not None:
            if model is not None:
                check_model(address, info, model)
            return cls(address, store, info, model, exists=True)
        if model is None:
            raise GalleryError(
                f"{address}: the gallery does not exist; create it with "
                f"dualpath gallery add {address} FOLDER --model MODEL: a folder that dualpath "
                f"train wrote, or a pretrained model: {suggestions()}"
            )
        return cls(address, store, new_info(model), model, exists=False)

    @property
    def model(self) -> "DualPath":
        """The model. It is loaded when it is first used.

        Raises:
            GalleryError: the model cannot be found or loaded, or has changed.
        """
        if self._model is None:
            self._model = load_recorded_model(self.address, self.info)
        return self._model

    def add(
        self,
        folder: str | Path,
        *,
        roots: Sequence[str | Path] = (),
        ray: bool = False,
        progress: Progress = no_progress,
    ) -> "IndexSummary":
        """Index the images of a folder: those of its manifest, or all image files below it.

        Images that are already indexed are skipped. Images that have changed are written again. If
        the call is interrupted, call it again to continue.

        Args:
            folder: with a manifest or without.
            roots: more folders that images of the manifest may be in. Images outside of ``folder``
                and these are left out.
            ray: whether to embed on the Ray cluster of the environment variable ``RAY_ADDRESS``, or
                on one that is started on this machine. The machines of the cluster must be able to
                read the images and the bundle.
            progress: called with the number of images finished since the last call.

        Raises:
            ManifestError: the manifest is not valid.
            GalleryError: a folder does not exist, or metadata does not fit the gallery's fields.
        """
        runner = _ray_runner() if ray else None
        indexer = self._indexer()
        try:
            summary = indexer.add_folder(
                Path(folder), [Path(root) for root in roots], runner=runner, progress=progress
            )
        finally:
            self.info = indexer.info
        if self._check_exists():
            self._searcher.save(IMAGES)
        return summary

    def add_image(
        self, path: Path, *, captions: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
    ) -> GalleryImage:
        """Index one image file, or replace its captions and metadata.

        Args:
            path: absolute path of a file in a folder of :meth:`add_root` or :meth:`add`.
            captions: of the image.
            metadata: of the image; its keys become fields.

        Raises:
            ImageError: the file is missing or cannot be decoded.
            FieldError: a value does not have the type of its field.
        """
        indexer = self._indexer()
        try:
            return indexer.add_image(path, captions=captions, metadata=metadata)
        finally:
            self.info = indexer.info

    def update_metadata(self, updates: Mapping[str, Mapping[str, Any]]) -> None:
        """Merge values into the metadata of images; new keys become fields.

        Args:
            updates: id of the image to its new values. Unknown ids are ignored.

        Raises:
            FieldError: a value does not have the type of its field.
        """
        self._require_exists()
        self.info = register_fields(self.store, self.address, self.info, [], updates.items())
        rewrite_metadata(self.store, self.info.fields, self.info.dim, updates)

    def add_root(self, folder: Path) -> None:
        """Add a folder to those whose images may be indexed and shown."""
        self.info = register_fields(self.store, self.address, self.info, [folder], [])

    def search(
        self,
        query: Query,
        *,
        top: int = DEFAULT_TOP,
        where: str | None = None,
        min_probability: float | None = None,
    ) -> list[Hit]:
        """Return the images nearest to a sentence or an image, best first.

        Args:
            query: a sentence (str) or an image (Path or PIL image).
            top: number of images.
            where: a filter by metadata (:mod:`dualpath.gallery.filter_parser`).
            min_probability: hide images that are less likely to fit a sentence; the result may be
                empty.

        Raises:
            FilterError: the filter is not valid, or the model cannot compute probabilities.
            GalleryError: the gallery is empty.
            ImageError: the image is missing or cannot be decoded.
        """
        hits = self.search_vector(self.embed(query), top=top, where=where)
        if isinstance(query, str):
            return self.add_probabilities(hits, min_probability)
        if min_probability is not None:
            raise FilterError("min_probability requires a sentence as the query, not an image")
        return hits

    def search_captions(
        self, query: Query, *, top: int = DEFAULT_TOP, where: str | None = None
    ) -> list[CaptionHit]:
        """Return the captions nearest to a sentence or an image; see :meth:`search`."""
        vector_query = VectorQuery(self.embed(query), top, self.parse_filter(where))
        return search.search_captions(self._searcher, self.store, vector_query)

    def search_vector(
        self, vector: Vectors, *, top: int = DEFAULT_TOP, where: str | None = None
    ) -> list[Hit]:
        """Return the images nearest to a unit vector of the gallery's model, (dim,) float32.

        Raises:
            FilterError: the filter is not valid.
            GalleryError: the vector has another length, or the gallery is empty.
        """
        if vector.shape != (self.info.dim,):
            raise GalleryError(
                f"{self.address}: the query has {vector.shape[-1]} dimensions, but the gallery has "
                f"{self.info.dim}; embed the query with the gallery's model"
            )
        [found] = self.search_rows([VectorQuery(vector, top, self.parse_filter(where))])
        return [Hit(to_image(row), score) for row, score in found]

    def search_rows(self, queries: Sequence[VectorQuery]) -> list[Found]:
        """Return the rows of the images nearest to each query, best first, and their cosines.

        This is faster than :meth:`search_vector` for several queries at once.

        Raises:
            GalleryError: the gallery is empty.
        """
        self._require_exists()
        return self._searcher.search(IMAGES, queries)

    def prepare(self) -> None:
        """Start to build the index in memory now, instead of after the first search."""
        if self._check_exists():
            self._searcher.prepare(IMAGES)

    def similar(
        self, image_id: str, *, top: int = DEFAULT_TOP, where: str | None = None
    ) -> list[Hit]:
        """Return the images nearest to an image of the gallery, without that image.

        Raises:
            UnknownImageError: no image has this id.
        """
        self._require_exists()
        vector = search.get_vector(self.store, image_id)
        hits = self.search_vector(vector, top=top + 1, where=where)
        return [hit for hit in hits if hit.image.id != image_id][:top]

    def add_probabilities(
        self, hits: Sequence[Hit], min_probability: float | None = None
    ) -> list[Hit]:
        """Add to the hits of a sentence the probability that they fit it.

        Args:
            hits: of a sentence.
            min_probability: hits with a lower probability are left out.

        Raises:
            FilterError: ``min_probability`` is given, but the model cannot compute probabilities.
        """
        calibration = self.model.calibration
        if calibration is not None:
            return search.with_probabilities(hits, calibration, min_probability)
        if min_probability is None:
            return list(hits)
        raise FilterError(
            f"{self.info.name}: the model cannot compute probabilities, because it was trained "
            "without validation images; remove min_probability, or train with a split 'val'"
        )

    def embed(self, query: Query) -> Vectors:
        """Return the unit vector of a sentence or an image, (dim,) float32."""
        if isinstance(query, str):
            vector: Vectors = self.model.embed_texts([query])[0]
        else:
            vector = self.model.embed_images([query])[0]
        return vector

    def parse_filter(self, where: str | None) -> Condition | None:
        """Parse a filter over the gallery's fields. None or blank: no filter.

        Raises:
            FilterError: the filter is not valid.
            GalleryError: the gallery is empty.
        """
        self._require_exists()
        if not where or not where.strip():
            return None
        from dualpath.gallery.filter_parser import parse_filter  # its library is slow to import

        return parse_filter(where, self.info.fields)

    def get(self, image_id: str) -> GalleryImage | None:
        """Return the image with an id. None: there is none."""
        self._require_exists()
        return search.get_images(self.store, [image_id]).get(image_id)

    def __len__(self) -> int:
        return self.store.count(IMAGES) if self._check_exists() else 0

    def remove(self, *targets: str | Path) -> int:
        """Remove images by id, by file or by folder. The files are not deleted.

        Returns:
            The number of images removed.
        """
        self._require_exists()
        removed = maintenance.remove(self.store, targets)
        self._searcher.save(IMAGES)
        return removed

    def sync(self, progress: Progress = no_progress) -> int:
        """Remove the images whose files do not exist. Return the number of images removed.

        Raises:
            GalleryError: an indexed folder does not exist, for example because its disk is not
                mounted; nothing is removed.
        """
        self._require_exists()
        removed = maintenance.sync(self.store, self.info.roots, progress)
        self._searcher.save(IMAGES)
        return removed

    def verify(self, progress: Progress = no_progress) -> list[str]:
        """Check the rows of the gallery and the image files. Return the problems, a line each."""
        self._require_exists()
        return maintenance.verify(self.store, self.info.dim, progress)

    def export(self, path: str | Path) -> int:
        """Write images, captions, metadata and vectors to a Parquet file.

        Returns:
            The number of images.
        """
        self._require_exists()
        return maintenance.export(self.store, self.info.dim, Path(path))

    def facets(self, max_values: int = 20) -> dict[str, list[tuple[Any, int]]]:
        """Return the values of the metadata fields and the number of images with each.

        Fields with more than ``max_values`` different values are left out.
        """
        self._require_exists()
        return maintenance.facets(self.store, self.info.fields, max_values)

    def refresh(self) -> None:
        """Read what other processes have written about the gallery.

        Raises:
            GalleryError: the gallery was created again with another model.
        """
        info = read_info(self.store, self.address, self.info.fingerprint)
        self._exists = info is not None
        self.info = info or self.info

    def close(self) -> None:
        """Close the files and connections of the gallery."""
        self._searcher.close()
        self.store.close()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _indexer(self) -> "Indexer":
        from dualpath.gallery.indexing import Indexer  # a search should start without it

        return Indexer(self.store, self.model, self.info, address=self.address)

    def _check_exists(self) -> bool:
        if not self._exists:
            self.refresh()
        return self._exists

    def _require_exists(self) -> None:
        if not self._check_exists():
            raise GalleryError(
                f"{self.address}: the gallery is empty; add images with dualpath gallery add"
            )


def _ray_runner() -> "Runner":
    try:
        from dualpath.gallery.ray_indexing import run_on_ray
    except ImportError as error:
        raise GalleryError("--ray requires Ray: pip install 'dualpath[ray]'") from error
    return run_on_ray
