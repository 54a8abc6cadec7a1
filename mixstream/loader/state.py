"""A place in a run over a corpus <-> JSON-able data, which fits that corpus alone."""

from __future__ import annotations

import hashlib
import json
from typing import TypedDict

from mixstream.errors import StateError
from mixstream.loader.batch_sampler import BatchSamplerState
from mixstream.mixing.state import check_keys

__all__ = ["LOADER_STATE_VERSION", "LoaderState", "check_loader_state", "state_id"]

LOADER_STATE_VERSION = 1


class LoaderState(TypedDict):
    """A place in a run over a corpus, as JSON holds it; equal on all ranks."""

    version: int
    corpus: str
    batches: BatchSamplerState


def check_loader_state(state: LoaderState, corpus_fingerprint: str) -> None:
    """Refuses a state that is not of this corpus and version.

    Raises:
        StateError: both values are named.
    """
    check_keys(state, LoaderState.__annotations__, "loader's")
    if state["version"] != LOADER_STATE_VERSION:
        raise StateError(
            f"the loader's state has version {state.get('version')!r}, this mixstream reads "
            f"version {LOADER_STATE_VERSION}; load it with the mixstream that saved it."
        )
    if state["corpus"] != corpus_fingerprint:
        raise StateError(
            f"the state was saved on the corpus with fingerprint {state['corpus']}, this one "
            f"has {corpus_fingerprint}; open the corpus of the run."
        )


def state_id(state: BatchSamplerState) -> str:
    """16 hex digits of a state, the same after a way through JSON."""
    text = json.dumps([state["step"], state["sampler"]], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
