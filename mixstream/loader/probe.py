"""A domain and a number of rows -> addresses of random rows to measure on."""

from __future__ import annotations

from mixstream.arrays import Addresses
from mixstream.errors import WeightsError
from mixstream.loader.batch_sampler import MixBatchSampler

__all__ = ["probe_addresses"]


def probe_addresses(
    batches: MixBatchSampler, step: int, domain: str | int, num_rows: int, draw: int
) -> Addresses:
    """(num_rows,) addresses for this rank; see `Loader.probe`.

    Raises:
        WeightsError: the domain does not exist, or has no rows.
    """
    sampler = batches.sampler
    if isinstance(domain, str) and domain not in sampler.domains:
        raise WeightsError(
            f"unknown domain {domain!r} in a probe; the corpus holds "
            f"{', '.join(sampler.domains[:10])}."
        )
    if num_rows < 0 or draw < 0:
        raise ValueError(f"num_rows is {num_rows} and draw is {draw}; give at least 0.")
    index = sampler.domains.index(domain) if isinstance(domain, str) else domain
    places = range(batches.rank * num_rows, (batches.rank + 1) * num_rows)
    return sampler.probe(index, places, place=batches.row(step), draw=draw)
