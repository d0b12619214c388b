"""Results for people: a table for the terminal, and a sheet of pictures for the browser."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from dualpath.data.pictures import open_picture

_THUMBNAIL = 160
_DIRECTIONS = {"image_to_text": "image → text", "text_to_image": "text → image"}


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Lay out what a protocol returned as a table."""
    title = (
        f"{metrics['images']:,} pictures, {metrics['captions']:,} captions · "
        f"split {metrics.get('split', '?')} · protocol {metrics['protocol']}"
        + (f" · re-ranked by {metrics['query_bank']}" if metrics.get("query_bank") else "")
        + (f" · rsum {metrics['rsum']:.1f}" if "rsum" in metrics else "")
    )
    table = Table(title=title)
    for column in ("direction", "R@1", "R@5", "R@10", "median rank", "mean rank", "mAP", "mINP"):
        table.add_column(column, justify="left" if column == "direction" else "right")
    for name, label in _DIRECTIONS.items():
        if name not in metrics:
            continue
        m = metrics[name]
        table.add_row(
            label,
            *(f"{m[f'recall_at_{k}']:.1f}" for k in (1, 5, 10)),
            f"{m['median_rank']:g}",
            f"{m['mean_rank']:.1f}",
            f"{m['map']:.1f}",
            f"{m['minp']:.1f}",
        )
    return table


@dataclass(frozen=True)
class Answer:
    """A picture found for a query. ``right``: whether it is a right one, if that is known."""

    path: Path
    score: float
    right: bool | None = None
    caption: str = ""


def write_sheet(path: Path, title: str, rows: Sequence[tuple[str, Sequence[Answer]]]) -> None:
    """Write queries with their found pictures as one HTML file that needs no other.

    Args:
        rows: each query with its answers, the best first. Right answers get a green frame and
            the word "right", wrong ones a grey frame, unknown ones none.
    """
    sections = []
    for query, answers in rows:
        cells = "".join(_cell(answer) for answer in answers)
        sections.append(
            f'<section><h2>{html.escape(query)}</h2><div class="row">{cells}</div></section>'
        )
    page = _PAGE.format(title=html.escape(title), sections="\n".join(sections))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _cell(answer: Answer) -> str:
    kind = {True: "right", False: "wrong", None: ""}[answer.right]
    mark = "right · " if answer.right else ""
    name = html.escape(answer.caption or answer.path.name)
    return (
        f'<figure class="{kind}"><img src="{_thumbnail(answer.path)}" alt="{name}">'
        f"<figcaption>{mark}{answer.score:.3f}<br>{name}</figcaption></figure>"
    )


def _thumbnail(path: Path) -> str:
    picture = open_picture(path)
    picture.thumbnail((_THUMBNAIL * 2, _THUMBNAIL * 2), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
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
