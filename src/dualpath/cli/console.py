"""What all commands share: consoles, a progress bar, errors as one clear line, common options."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from dualpath.errors import DualPathError
from dualpath.types import Progress
from dualpath.utils.extras import find_extra

out_console = Console(soft_wrap=True)
err_console = Console(stderr=True, soft_wrap=True, highlight=False)


def existing_folder(path: Path | None) -> Path | None:
    """Exit with one line unless a folder exists; an option's callback."""
    if path is not None and not path.is_dir():
        _fail(f"{path}: the folder does not exist")
    return path


def existing_folders(paths: list[Path] | None) -> list[Path] | None:
    """Exit with one line unless all folders exist; an option's callback."""
    for path in paths or []:
        existing_folder(path)
    return paths


def existing_path(path: Path | None) -> Path | None:
    """Exit with one line unless a file or folder exists; an option's callback."""
    if path is not None and not path.exists():
        _fail(f"{path}: does not exist")
    return path


def _fail(message: str) -> NoReturn:
    err_console.print(f"error: {message}", markup=False)
    raise typer.Exit(1)


Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder for cached embeddings and features. "
        "Default: dualpath in the user's cache folder.",
        envvar="DUALPATH_CACHE",
        show_default=False,
    ),
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out images that cannot be decoded.")
]
Data = Annotated[
    Path,
    typer.Option(help="Folder of captioned images with a manifest.", callback=existing_folder),
]


@contextmanager
def handle_errors(hint: str = "") -> Iterator[None]:
    """Print an error as one line and exit with code 1; an interruption exits with code 130.

    Errors that are not for users (bugs) pass through with their traceback.

    Args:
        hint: added to the message after an interruption.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        err_console.print(f"interrupted{hint}", markup=False)
        raise typer.Exit(130) from error
    except ModuleNotFoundError as error:
        extra = find_extra(error)
        if extra is None:
            raise
        _fail(f"this needs the package {error.name}: pip install 'dualpath[{extra}]'")
    except (DualPathError, OSError) as error:
        # An error of a data-loading process contains its whole traceback; the last line says it.
        text = str(error)
        text = text.strip().splitlines()[-1] if "Original Traceback" in text else text
        err_console.print(f"error: {text}", markup=False)
        raise typer.Exit(1) from error


def bar(title: str, total: int | None = None) -> AbstractContextManager[Progress]:
    """Show progress; yields a function that counts finished items."""
    from dualpath.utils.progress import Display

    return Display().bar(title, total)


def print_rows(rows: dict[str, object]) -> None:
    """Print names and values in two columns."""
    for name, value in rows.items():
        out_console.print(f"{name:16} {value}", markup=False, highlight=False)


def log(line: str) -> None:
    """Print a line on standard error."""
    err_console.print(line, markup=False)
