"""A place in a run over a corpus <-> JSON-able data, which fits that corpus and what follows it."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any, TypedDict

from mixstream.corpus.corpus import Corpus
from mixstream.corpus.index import ShardIndex
from mixstream.errors import StateError
from mixstream.loader.batch_sampler import BatchSamplerState
from mixstream.mixing.state import check_keys

__all__ = [
    "LOADER_STATE_VERSION",
    "LoaderState",
    "check_loader_state",
    "lost_contents",
    "shard_contents",
    "state_id",
]

LOADER_STATE_VERSION = 2
"""Version 1 does not tell the contents of each domain, so it fits the corpus of the run alone."""


class _StateOfOneCorpus(TypedDict):
    version: int
    corpus: str
    batches: BatchSamplerState


class LoaderState(_StateOfOneCorpus, total=False):
    """A place in a run over a corpus, as JSON holds it; equal on all ranks."""

    contents: dict[str, list[Any]]
    """Of each domain: how many shards, and 16 hex digits of their rows, sizes and checksums."""
    id: str
    """See state_id, of `batches`: a checkpoint that takes states apart may lose some of it."""


_contents: weakref.WeakKeyDictionary[Corpus, dict[str, list[Any]]] = weakref.WeakKeyDictionary()


def shard_contents(corpus: Corpus) -> dict[str, list[Any]]:
    """What a state says of the shards of each domain of its corpus; O(shards), once."""
    if corpus not in _contents:
        _contents[corpus] = {name: _content(index) for name, index in _indexes(corpus).items()}
    return _contents[corpus]


def lost_contents(state: LoaderState, corpus: Corpus) -> dict[str, list[Any]]:
    """What a state says of domains that a corpus has lost, for the case that they return."""
    known = state.get("contents", {})
    return {name: content for name, content in known.items() if name not in corpus.layout}


def check_loader_state(state: LoaderState, corpus: Corpus) -> None:
    """Refuses a state that is of another version, or of a corpus that this one does not follow.

    A corpus follows another one if each domain that both have begins with the other's shards.

    Raises:
        StateError: both values are named.
    """
    check_keys(state, _StateOfOneCorpus.__annotations__, "loader's")
    if state["version"] not in (1, LOADER_STATE_VERSION):
        raise StateError(
            f"the loader's state has version {state['version']!r}, this mixstream reads version 1 "
            f"and version {LOADER_STATE_VERSION}; load it with the mixstream that saved it."
        )
    batches = state["batches"]
    is_state = isinstance(batches, Mapping) and {"step", "sampler"} <= set(batches)
    if is_state and "id" in state and (now := state_id(batches)) != state["id"]:
        raise StateError(
            f"the loader's state was saved with id {state['id']} and now has {now}, so something "
            f"of it was lost or changed on the way. "
            f"torch.distributed.checkpoint takes states apart: save it as "
            f"mixstream.integrations.stateful.StatefulLoader(loader). If the state was changed on "
            f"purpose, leave its 'id' out."
        )
    if state["corpus"] == corpus.fingerprint:
        return
    if state["version"] == 1:
        raise _misfit(state, corpus, "a state of version 1 does not tell which shards it knew.")
    check_keys(state, ["contents"], "loader's")
    _check_follows(state, corpus)


def _check_follows(state: LoaderState, corpus: Corpus) -> None:
    """Refuses a corpus whose domains do not begin with what the state knows, or were renamed."""
    known: Mapping[str, list[Any]] = state["contents"]
    indexes = _indexes(corpus)
    unknown = [name for name in reversed(corpus.domains) if name not in known]

    @cache
    def new_names(num_shards: int) -> dict[str, str]:
        """Digest of so many first shards -> the first domain of it that the state knows not."""
        return {_content(indexes[new], num_shards)[1]: new for new in unknown}

    if not any(name in corpus.layout for name in known):
        raise _misfit(state, corpus, "they have no domain in common.")
    for name, (number, digest) in known.items():
        if name not in corpus.layout:
            if number and digest in new_names(number):
                raise _misfit(
                    state,
                    corpus,
                    f"domain {name!r} is {new_names(number)[digest]!r} here; the name is part of "
                    f"the order, so name it {name!r} as before.",
                )
            continue
        here = len(corpus.layout[name])
        if here < number:
            raise _misfit(
                state,
                corpus,
                f"domain {name!r} had {number} shards and has {here} here, so this corpus is an "
                f"older one than the run's; open the one that the run has seen.",
            )
        found = _content(indexes[name], number)[1]
        if found != digest:
            raise _misfit(
                state,
                corpus,
                f"the first {number} shards of domain {name!r} are others, of digest {found} and "
                f"not {digest}; open the corpus of the run, or one that was appended to it.",
            )


def _misfit(state: LoaderState, corpus: Corpus, why: str) -> StateError:
    return StateError(
        f"the state was saved on the corpus with fingerprint {state['corpus']}, this one has "
        f"{corpus.fingerprint}: {why}"
    )


def _indexes(corpus: Corpus) -> dict[str, ShardIndex]:
    return {domain.name: domain.index for domain in corpus.pool.shards.domains}


def _content(index: ShardIndex, num_shards: int | None = None) -> list[Any]:
    """How many shards a domain has, up to a number of them, and a digest of what is in these."""
    contents = index.contents()[:num_shards]
    digest = hashlib.blake2b(digest_size=8)
    digest.update("".join(f"{rows} {size} {raw}\n" for rows, size, raw in contents).encode())
    return [len(contents), digest.hexdigest()]


def state_id(state: BatchSamplerState) -> str:
    """16 hex digits of a state, the same after a way through any JSON, which may make 1 of 1.0.

    Raises:
        StateError: the state holds what JSON does not.
    """
    try:
        text = json.dumps(_plain([state["step"], state["sampler"]]), sort_keys=True)
    except TypeError as error:
        raise StateError(
            f"{error}, in the loader's state; give what state_dict returned."
        ) from error
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    """Whole numbers as integers, whatever they are held as."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
