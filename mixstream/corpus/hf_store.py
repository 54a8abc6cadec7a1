"""A data set of the Hugging Face hub -> a SourceStore, by huggingface_hub.

hf://datasets/OWNER/NAME/folder, or OWNER/NAME@REVISION (a slash in it as %2F). A token is found
where huggingface_hub finds it; HF_ENDPOINT names another hub. The tests have no hub: a stand-in
that answers as its documentation says was asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mixstream.corpus.remote import RemotePath
from mixstream.corpus.store import ChangedError, Listed
from mixstream.errors import RecipeError

__all__ = ["HfStore"]


class HfStore:
    """Names are OWNER/NAME[@REVISION]/path.

    A listing holds the commit that it was made of: later pushes change nothing.

    Args:
        remote: hf://datasets.
        timeout_seconds: how long a silent connection is waited for.

    Raises:
        RecipeError: another kind of repository.
    """

    def __init__(self, remote: RemotePath, timeout_seconds: float) -> None:
        if remote.server != "hf://datasets":
            raise RecipeError(
                f"{remote} is no data set of the Hugging Face hub; write "
                f"hf://datasets/OWNER/NAME/folder."
            )
        self._timeout = timeout_seconds
        self._endpoint = os.environ.get("HF_ENDPOINT")  # now: huggingface_hub reads it once

    def listed(self, prefix: str) -> Iterator[Listed]:
        """A request for every thousand files, and one for the commit."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        repository, revision, path = _split(prefix)
        named = "/".join(prefix.split("/")[:2])  # as the user writes it
        api = HfApi(endpoint=self._endpoint)
        commit = api.dataset_info(repository, revision=revision, timeout=self._timeout).sha
        folder = path.rpartition("/")[0]
        try:
            for found in api.list_repo_tree(
                repository, folder or None, recursive=True, revision=commit, repo_type="dataset"
            ):
                if isinstance(found, RepoFile) and found.path.startswith(path):
                    digest = f"sha256:{found.lfs.sha256}" if found.lfs else f"git:{found.blob_id}"
                    yield Listed(
                        name=f"{named}/{found.path}",
                        num_bytes=found.size,
                        mtime_ns=0,
                        version=str(commit),
                        content=digest,
                    )
        except EntryNotFoundError:
            return

    def read_range(self, name: str, start: int, end: int, version: str) -> bytes:
        """One request (and where the hub says so, one to where it keeps large files)."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public by their docs
            build_hf_headers,
            hf_raise_for_status,
        )

        repository, _, path = _split(name)
        url = hf_hub_url(
            repository, path, repo_type="dataset", revision=version, endpoint=self._endpoint
        )
        headers: dict[str, Any] = {
            **build_hf_headers(),
            "Accept-Encoding": "identity",  # ranges are of the bytes as they are stored
            "Range": f"bytes={start}-{end - 1}",
        }
        answer = get_session().get(url, headers=headers, timeout=self._timeout)
        if answer.status_code == 416:
            raise ChangedError
        hf_raise_for_status(answer)
        content: bytes = answer.content
        return content[start:end] if answer.status_code == 200 else content


def _split(name: str) -> tuple[str, str | None, str]:
    """OWNER/NAME, the revision and the path; RecipeError where there is no OWNER/NAME."""
    owner, _, rest = name.partition("/")
    repository, _, path = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not owner or not repository:
        raise RecipeError(
            f"hf://datasets/{name} names no data set; write hf://datasets/OWNER/NAME/folder."
        )
    return f"{owner}/{repository}", revision.replace("%2F", "/") or None, path
