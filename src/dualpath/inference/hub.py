"""Uploading a model to the Hugging Face hub."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi

from dualpath.errors import BundleError
from dualpath.inference.bundle import FILES
from dualpath.utils.text import error_reason

if TYPE_CHECKING:
    from dualpath.inference.model import DualPath


def push_to_hub(
    model: "DualPath", repo_id: str, *, private: bool, token: str | None, commit_message: str
) -> str:
    """Upload a model; see :meth:`DualPath.push_to_hub`.

    Raises:
        BundleError: the hub cannot be reached or refuses the upload.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(model.source or "")
            if model.source is None or not folder.is_dir():
                folder = Path(temporary)
                model.save_pretrained(folder)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=list(FILES),
                commit_message=commit_message,
            )
    except BundleError:
        raise
    except Exception as error:  # the hub client raises errors of its dependencies
        raise BundleError(f"{repo_id}: cannot be uploaded ({error_reason(error)})") from error
    return str(commit)
