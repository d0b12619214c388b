"""A report of queries and the images found for them, as one HTML file."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dualpath.data.images import open_image
from dualpath.errors import ImageError
from dualpath.utils.files import atomic_write

_THUMBNAIL = 160  # CSS pixels per side; the file has twice as many for dense screens


@dataclass(frozen=True)
class ReportHit:
    """An image found for a query.

    Attributes:
        path: of the image file.
        score: cosine with the query.
        is_right: whether it is a right answer, if that is known.
        caption: shown below the image
            instead of the file name.
    """

    path: Path
    score: float
    is_right: bool | None = None
    caption: str = ""


@dataclass(frozen=True)
class ReportQuery:
    """A query and its hits, the best first."""

    text: str
    hits: Sequence[ReportHit]


def write_html_report(path: Path, title: str, queries: Sequence[ReportQuery]) -> None:
    """Write queries with their images as one HTML file that needs no other file.

    Right answers get a green frame and the word "right", wrong ones a grey frame.
    """
    sections = []
    for query in queries:
        figures = "".join(_figure(hit) for hit in query.hits)
        sections.append(
            f'<section><h2>{html.escape(query.text)}</h2><div class="row">{figures}</div></section>'
        )
    page = _PAGE.format(title=html.escape(title), sections="\n".join(sections))
    atomic_write(path, page)


def _figure(hit: ReportHit) -> str:
    kind = {True: "right", False: "wrong", None: ""}[hit.is_right]
    mark = "right · " if hit.is_right else ""
    name = html.escape(hit.caption or hit.path.name)
    return (
        f'<figure class="{kind}"><img src="{_thumbnail(hit.path)}" alt="{name}">'
        f"<figcaption>{mark}{hit.score:.3f}<br>{name}</figcaption></figure>"
    )


def _thumbnail(path: Path) -> str:
    """Return an image as a data URL; the empty text if its file cannot be read any more."""
    try:
        image = open_image(path)
    except ImageError:
        return ""
    image.thumbnail((_THUMBNAIL * 2, _THUMBNAIL * 2), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }}
  body {{ max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }}
  h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1rem; margin: 1.6rem 0 .5rem; }}
  .row {{ display: flex; flex-wrap: wrap; gap: .8rem; }}
  figure {{ margin: 0; width: 10rem; }}
  img {{ width: 10rem; height: 10rem; object-fit: contain; box-sizing: border-box;
        border: 4px solid transparent; border-radius: 6px; background: #8883; }}
  .right img {{ border-color: #1a9850; }} .wrong img {{ border-color: #8888; }}
  figcaption {{ font-size: .8rem; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
{sections}
</html>
"""
