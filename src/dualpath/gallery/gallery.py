"""A gallery: pictures with their vectors, to be filled, searched and looked after."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dualpath.gallery import upkeep
from dualpath.gallery.errors import FilterError, GalleryError
from dualpath.gallery.filled import Filled, read_filled, write_filled
from dualpath.gallery.filters import Condition, parse_filter
from dualpath.gallery.rows import CaptionHit, Hit, Picture, learn_fields, to_picture
from dualpath.gallery.store import Store, open_store
from dualpath.vectors import Advance, Vectors, unwatched

if TYPE_CHECKING:
    from dualpath.embedding import DualPath
    from dualpath.gallery.adding import Added

Query = str | Path | Image.Image


class Gallery:
    """Pictures, captions and their vectors, kept by an embedded store or a cluster.

    Example::

        model = dualpath.load("bundle")
        gallery = dualpath.Gallery.open("photos.db", model=model)
        gallery.add("photos/")
        for hit in gallery.search("a red bus", top=5):
            print(hit.score, hit.picture.path)

    Attributes:
        address: where it is kept.
        store: the engine behind it.
        filled: what it was filled with.
    """

    def __init__(
        self, address: str, store: Store, filled: Filled, model: "DualPath | None"
    ) -> None:
        self.address = address
        self.store = store
        self.filled = filled
        self._model = model
        self._begun = False

    @classmethod
    def open(cls, address: str | Path, *, model: "DualPath | None" = None) -> "Gallery":
        """Open a gallery, or begin one where there is none.

        Args:
            address: a folder for the embedded store, ``http://HOST:PORT/NAME`` for Milvus.
            model: needed to fill and to search; looking and tidying up go without.

        Raises:
            GalleryError: there is none and no model to begin one with; it was filled with another
                model; or it cannot be reached.
        """
        address = str(address)
        store = open_store(address)
        about = store.read_about()
        own = None if model is None else model.fingerprint
        if about is not None:
            filled = read_filled(address, about)
            if model is not None and own != filled.model:
                raise GalleryError(
                    f"{address}: was filled with the model {filled.name} ({filled.model[:12]}), "
                    f"not with {model.recipe.name} ({str(own)[:12]}); open it with that one"
                    + (f", {filled.source}," if filled.source else "")
                    + " or fill a new gallery"
                )
        elif model is None or own is None:
            raise GalleryError(
                f"{address}: no gallery; begin one with "
                f"dualpath gallery add {address} FOLDER --model BUNDLE"
            )
        else:
            filled = Filled(own, model.recipe.name, model.source, model.dim, (), {})
        gallery = cls(address, store, filled, model)
        gallery._begun = about is not None
        return gallery

    @property
    def model(self) -> "DualPath":
        """The model; raises ``GalleryError`` if the gallery was opened without."""
        if self._model is None:
            raise GalleryError(f"{self.address}: open the gallery with its model for that")
        return self._model

    def add(
        self,
        folder: str | Path,
        *,
        roots: Sequence[str | Path] = (),
        ray: bool = False,
        advance: Advance = unwatched,
    ) -> "Added":
        """Index the pictures of a folder, by its manifest or every picture file below it.

        What is there already, by content, is left; what changed is embedded anew. An interrupted
        call loses at most the last few hundred pictures, and the next one goes on.

        Args:
            folder: with a manifest or without.
            roots: more folders that pictures named by the manifest may lie in; nothing outside of
                ``folder`` and these is indexed.
            ray: read and embed on the Ray cluster of ``RAY_ADDRESS``, or on one started here; its
                machines need to see the pictures and the model.
            advance: called with the number of pictures done since the last call.

        Raises:
            ManifestError: the manifest is bad.
            GalleryError: metadata does not fit what is there already.
        """
        from dualpath.gallery.adding import add_folder

        return add_folder(self, Path(folder), [Path(root) for root in roots], advance, ray=ray)

    def add_picture(
        self, path: Path, *, captions: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
    ) -> Picture:
        """Index one picture file of a folder that the gallery knows; return it.

        Raises:
            PictureError: it is no sound picture.
            FieldError: metadata does not fit what is there already.
        """
        from dualpath.gallery.adding import add_picture

        return add_picture(self, path, tuple(captions), dict(metadata or {}))

    def search(
        self,
        query: Query,
        *,
        top: int = 10,
        where: str | None = None,
        min_probability: float | None = None,
    ) -> list[Hit]:
        """Find the pictures nearest to a sentence (str) or a picture (Path or PIL), best first.

        Args:
            top: pictures to find.
            where: a filter over the metadata (:mod:`dualpath.gallery.filters`).
            min_probability: leave out what is less likely to fit a sentence.

        Raises:
            FilterError: the filter is none, or a probability is asked for that there is not.
            GalleryError: nothing was ever indexed.
            PictureError: the query is no sound picture.
        """
        hits = self.search_vector(self.embed(query), top=top, where=where)
        if isinstance(query, str):
            return self.judge(hits, min_probability)
        if min_probability is not None:
            raise FilterError("probabilities are of sentences; ask with a sentence")
        return hits

    def judge(self, hits: Sequence[Hit], min_probability: float | None = None) -> list[Hit]:
        """Tell how likely hits of a sentence fit it, and leave out those that are less likely.

        Raises:
            FilterError: the model gives no probabilities and one is asked for.
        """
        calibration = self.model.calibration
        if calibration is None:
            if min_probability is not None:
                raise FilterError(
                    f"{self.filled.name}: gives no probabilities, as it was trained without "
                    "validation pictures; search without one, or train it with a split 'val'"
                )
            return list(hits)
        judged = [replace(hit, probability=calibration.probability(hit.score)) for hit in hits]
        return [hit for hit in judged if (hit.probability or 0.0) >= (min_probability or 0.0)]

    def search_captions(
        self, query: Query, *, top: int = 10, where: str | None = None
    ) -> list[CaptionHit]:
        """Find the captions nearest to a sentence or a picture; see :meth:`search`."""
        found = self.store.search("captions", self.embed(query), top, self.condition(where))
        owners = self._pictures("id", [row["picture"] for row, _ in found])
        return [
            CaptionHit(row["text"], owners[row["picture"]], score)
            for row, score in found
            if row["picture"] in owners  # else it is being removed
        ]

    def search_vector(
        self, vector: Vectors, *, top: int = 10, where: str | None = None
    ) -> list[Hit]:
        """Find the pictures nearest to a unit vector, (dim,) float32, of the gallery's model."""
        if vector.shape != (self.filled.dim,):
            raise GalleryError(
                f"{self.address}: holds vectors of {self.filled.dim} numbers, the query has "
                f"{vector.shape[-1]}; embed it with the gallery's model"
            )
        found = self.store.search("pictures", vector, top, self.condition(where))
        return [Hit(to_picture(row), score) for row, score in found]

    def similar(self, picture: str, *, top: int = 10, where: str | None = None) -> list[Hit]:
        """Find the pictures nearest to one of the gallery, by its id; that one is left out."""
        rows = self.store.get("pictures", "id", [picture], vectors=True)
        if not rows:
            raise KeyError(picture)
        vector = np.asarray(rows[0]["vector"], np.float32)
        hits = self.search_vector(vector, top=top + 1, where=where)
        return [hit for hit in hits if hit.picture.id != picture][:top]

    def embed(self, query: Query) -> Vectors:
        """Embed a sentence or a picture as a unit vector, (dim,) float32."""
        if isinstance(query, str):
            vector: Vectors = self.model.embed_texts([query])[0]
            return vector
        return self.model.embed_images([query])[0]  # type: ignore[no-any-return]

    def condition(self, where: str | None) -> Condition | None:
        """Read a filter over the gallery's fields; raises ``FilterError`` if it is none."""
        self._check_filled()
        return parse_filter(where, self.filled.fields) if where and where.strip() else None

    def get(self, picture: str) -> Picture | None:
        """Return a picture by its id."""
        return self._pictures("id", [picture]).get(picture)

    def __len__(self) -> int:
        return self.store.count("pictures") if self._begun else 0

    def remove(self, *what: str | Path) -> int:
        """Remove pictures by id, by path, or all below a folder; return how many went."""
        self._check_filled()
        return upkeep.remove(self.store, what)

    def sync(self, advance: Advance = unwatched) -> int:
        """Remove the pictures whose files are gone from disk; return how many went.

        Raises:
            GalleryError: a whole folder that was indexed is gone, as when a disk is not mounted.
        """
        self._check_filled()
        return upkeep.sync(self.store, self.filled.roots, advance)

    def verify(self, advance: Advance = unwatched) -> list[str]:
        """Compare everything stored with itself and with the files; return what is wrong."""
        self._check_filled()
        return upkeep.verify(self.store, self.filled.dim, advance)

    def export(self, path: str | Path) -> int:
        """Write pictures, metadata and vectors to a Parquet file; return the number of rows."""
        self._check_filled()
        return upkeep.export(self.store, self.filled.dim, Path(path))

    def facets(self, most: int = 20) -> dict[str, list[tuple[Any, int]]]:
        """Return the fields with at most so many different values: each with its count."""
        self._check_filled()
        return upkeep.facets(self.store, self.filled.fields, most)

    def learn(self, roots: Sequence[Path], told: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Remember folders and metadata fields (names of pictures with their metadata)."""
        with self.store.writing():
            self.refresh()
            if not self._begun:
                self.store.write_about(write_filled(self.filled))
            known = self.filled
            fields = learn_fields(known.fields, told)
            new_roots = [root for root in roots if root not in known.roots]
            self.filled = replace(known, roots=(*known.roots, *new_roots), fields=fields)
            if self.filled != known:
                self.store.add_fields(fields)
                self.store.write_about(write_filled(self.filled))
        self._begun = True

    def refresh(self) -> None:
        """Learn what other processes have written about the gallery.

        Raises:
            GalleryError: it has been begun anew with another model.
        """
        about = self.store.read_about()
        self._begun = about is not None
        if about is not None:
            filled = read_filled(self.address, about)
            if filled.model != self.filled.model:
                raise GalleryError(
                    f"{self.address}: was filled anew with another model; open it again"
                )
            self.filled = filled

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pictures(self, column: str, values: Sequence[str]) -> dict[str, Picture]:
        rows = self.store.get("pictures", column, sorted(set(values))) if values else []
        return {row["id"]: to_picture(row) for row in rows}

    def _check_filled(self) -> None:
        if not self._begun:
            self.refresh()
        if not self._begun:
            raise GalleryError(
                f"{self.address}: holds nothing yet; fill it with dualpath gallery add"
            )
