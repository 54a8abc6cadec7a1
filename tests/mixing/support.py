"""A sampler's layout, its twin after a kill, and its specification row by row."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from mixstream import MixSampler
from mixstream.mixing.alias import domain_table, table_domains
from mixstream.mixing.order import RowOrder

LAYOUT = {"web": np.array([40, 25]), "code": np.array([30]), "books": np.array([7, 0, 4])}


def resumed(sampler: MixSampler, layout: Any, **settings: Any) -> MixSampler:
    """A twin in another process, as far as anyone can tell."""
    twin = MixSampler(layout, **settings)
    twin.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    return twin


def naive_rows(
    layout: dict[str, np.ndarray], log: dict[int, np.ndarray], num_rows: int, options: dict
) -> list[tuple[int, int]]:
    """The first rows of a run, one row at a time, straight from DESIGN section 5.

    Fewer where the run ends; ends at once where on_exhausted="raise" would raise.
    """
    seed, nodes = options.get("seed", 0), options.get("num_canonical_nodes", 1)
    order = RowOrder(
        layout,
        seed=seed,
        num_canonical_nodes=nodes,
        shuffle=options.get("shuffle", True),
        shuffle_block_rows=options.get("shuffle_block_rows", 1 << 18),
    )
    names, stratum = list(layout), options.get("stratum")
    by_micro_batch = options.get("sampling") == "micro_batch"
    exact = None if by_micro_batch else stratum
    caps = options.get("max_epochs", math.inf)
    policy = options.get("on_exhausted", "redistribute")
    allowed = {}
    for node in range(nodes):
        for k, name in enumerate(names):
            cap = caps if not isinstance(caps, dict) else caps.get(name, math.inf)
            size = order.slices.num_rows[node, k]
            allowed[node, k] = cap * size if size else math.inf
    count = dict.fromkeys(allowed, 0)
    tables: dict[bytes, Any] = {}
    out = []
    for row in range(num_rows):
        weights = log[max(at_row for at_row in log if at_row <= row)]
        if "max_epochs" in options:
            ended = {k for node, k in allowed if count[node, k] >= allowed[node, k]}
            ended = ended if policy == "redistribute" else set()
            weights = np.array([0.0 if k in ended else w for k, w in enumerate(weights.tolist())])
            if not weights.any():
                break
            weights = weights / math.fsum(weights.tolist())
        if weights.tobytes() not in tables:
            tables[weights.tobytes()] = domain_table(weights, exact)
        table = tables[weights.tobytes()]
        drawn = row
        if by_micro_batch:  # the number of the micro-batch, those of all nodes in turn
            drawn = row // (nodes * stratum) * nodes + row % nodes
        domain = int(table_domains(table, np.array([drawn]), seed=seed, stratum=exact)[0])
        node = row % nodes if layout[names[domain]].sum() >= nodes else 0
        if count[node, domain] >= allowed[node, domain]:
            break
        address = order.rows(np.array([domain]), np.array([node]), np.array([count[node, domain]]))
        out.append((domain, int(address[0])))
        count[node, domain] += 1
    return out


def rows_of(taken: np.ndarray) -> list[tuple[int, int]]:
    return taken.tolist()
