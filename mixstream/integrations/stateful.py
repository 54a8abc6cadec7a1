"""A loader -> what checkpoints of torch.distributed keep of it: one value that none takes apart."""

from __future__ import annotations

import json
from typing import Any

from mixstream.corpus.jsonfile import brief
from mixstream.errors import StateError
from mixstream.loader import Loader
from mixstream.mixing.adoption import OnRetired

__all__ = ["StatefulLoader"]

_STATE = "json"


class StatefulLoader:
    """A loader for `dcp.save({"loader": StatefulLoader(loader)}, ...)`, and later `dcp.load`.

    torch.distributed.checkpoint saves each entry of nested mappings by a name of its own, and loads
    those that the object has on which it is called. A Loader's state has as many entries as there
    are planned changes and domains, so between two loaders that differ there, `dcp.load` of the
    plain Loader fails over a missing key or leaves changes out. This one's state is one text.

    Args:
        loader: the loader.
        on_retired: where a checkpoint has a positive weight for a domain that the corpus has lost:
            "raise", or "redistribute" the weight to the others; see Loader.load_state_dict.
    """

    def __init__(self, loader: Loader, *, on_retired: OnRetired = "raise") -> None:
        self.loader, self._on_retired = loader, on_retired

    def state_dict(self) -> dict[str, str]:
        """The loader's state after the last delivered batch, as JSON."""
        return {_STATE: json.dumps(self.loader.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from such a state, or from the plain one of a Loader.

        Raises:
            StateError: the state is damaged, or of another corpus, setting or version.
        """
        try:
            found: Any = json.loads(state[_STATE]) if _STATE in state else state
        except (TypeError, ValueError, RecursionError) as error:
            raise StateError(
                f"the loader's state {brief(state[_STATE])} is no JSON ({error}); give what "
                f"StatefulLoader.state_dict returned."
            ) from error
        self.loader.load_state_dict(found, on_retired=self._on_retired)
