"""Domain weights + layout -> the address of every row of the run, in order; the live hook.

Row i of the run depends on the layout, the settings, the weights in force at row i, and on which
rows came before; on nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixstream.arrays import ADDRESS, Addresses, Counts, Vector
from mixstream.errors import StepError, WeightsError
from mixstream.mixing.adoption import LayoutOfToday, OnRetired, shard_lists
from mixstream.mixing.alias import DomainTable, domain_table, micro_batch_domains, table_domains
from mixstream.mixing.changes import WeightLog
from mixstream.mixing.draw import NO_ROWS, Draw, ordinals
from mixstream.mixing.exhaustion import EpochLimits
from mixstream.mixing.growth import GrownOrder, Leg, row_order
from mixstream.mixing.mark import Mark
from mixstream.mixing.order import Block
from mixstream.mixing.settings import (
    OnExhausted,
    OrderSettings,
    Sampling,
    checked_layout,
    epoch_caps,
)
from mixstream.mixing.state import STATE_VERSION, RetiredDomain, SamplerState
from mixstream.mixing.weights import (
    WeightChange,
    WeightsLike,
    natural_weights,
    simplex_point,
    weights_among,
)
from mixstream.rng import name_key, permuted, stream_key

__all__ = ["Draw", "Mark", "MixSampler", "SamplerState"]

_PROBE_STREAM = 0x50726F  # keys of the probes, apart from every other use of the seed
_ROWS_AT_ONCE = 6144
"""Of addresses: with more, malloc gives the memory of each array back and asks for it again, which
takes half as long as the rest (benchmarks/draw.py)."""


class _Table(NamedTuple):
    """What rows are drawn by, from a change of the weights on, until a domain ends."""

    change: WeightChange
    masked: NDArray[np.bool_] | None
    """(K,) domains that are left out; None where none can end."""
    columns: DomainTable
    domains: Counts | None
    """The domain of each column, -1 for one that is gone; None where they are the same."""

    def is_of(self, change: WeightChange, masked: NDArray[np.bool_] | None) -> bool:
        if self.change is not change:
            return False
        return masked is None or self.masked is None or bool((self.masked == masked).all())


class MixSampler:
    """Draws rows of many domains by weights that may change at any undrawn row.

    Args:
        layout: rows of each shard, an int64 array a domain; `corpus.layout`, or any such mapping.
        weights: a number a domain, by name or (K,) in the layout's order; None draws every domain
            by its share of the rows.
        seed: in [0, 2^64).
        num_canonical_nodes: C, the number of slices in which nodes read. Row i of the run belongs
            to canonical node i mod C.
        sampling: "independent" draws each row alone; "stratified" gives every stratum of rows each
            domain's share to within one row; "micro_batch" draws each stratum (of the rows of a
            canonical node) from one domain.
        stratum: rows of a stratum: for "stratified" usually those of a global batch, for
            "micro_batch" those of one rank's batch.
        shuffle: False draws every domain in shard order.
        shuffle_block_rows: rows of a domain that are shuffled together.
        max_epochs: epochs after which a domain is exhausted, a number for all or by name. Counted
            on each canonical node: no row is drawn more often.
        on_exhausted: "redistribute" gives the domain's weight to the others in proportion, from the
            row after the one that used it up on any canonical node; "stop" ends the run before the
            first row that cannot be drawn; "raise" raises WeightsError there.

    Raises:
        WeightsError: weights, domains or epochs that do not fit the layout.
    """

    def __init__(
        self,
        layout: Mapping[str, Counts],
        weights: WeightsLike | None = None,
        *,
        seed: int = 0,
        num_canonical_nodes: int = 1,
        sampling: Sampling = "independent",
        stratum: int | None = None,
        shuffle: bool = True,
        shuffle_block_rows: int = 1 << 18,
        max_epochs: int | Mapping[str, int] | None = None,
        on_exhausted: OnExhausted | None = None,
    ) -> None:
        self.domains = tuple(layout)
        self.num_rows, self._layout_digest = checked_layout(layout)
        self._layout = {name: np.asarray(rows, dtype=np.int64) for name, rows in layout.items()}
        if on_exhausted is not None and max_epochs is None:
            raise WeightsError(
                f"on_exhausted={on_exhausted!r} has no effect without max_epochs; "
                f"give max_epochs, or leave it out."
            )
        self.settings = OrderSettings(
            seed=operator.index(seed),
            num_canonical_nodes=operator.index(num_canonical_nodes),
            sampling=sampling,
            stratum=None if stratum is None else operator.index(stratum),
            shuffle=bool(shuffle),
            shuffle_block_rows=operator.index(shuffle_block_rows),
            max_epochs=epoch_caps(max_epochs, self.domains),
            on_exhausted=on_exhausted or "redistribute",
        )
        self._set_legs({})
        self._retired: dict[str, RetiredDomain] = {}
        self._shards: dict[str, list[Any]] | None = None
        first = natural_weights(self.num_rows) if weights is None else self.checked(weights)
        self.version = 0
        """Grows with every move and every change, but for `advance`."""
        self._here = Mark(0, np.zeros_like(self._order.slices.num_rows))
        self._log = WeightLog(0, first)
        self._table: _Table | None = None

    @property
    def row(self) -> int:
        """The next row of the run that is not drawn yet."""
        return self._here.row

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the next row, before exhausted domains are left out."""
        return self._log.at(self.row).copy()

    @property
    def planned(self) -> tuple[WeightChange, ...]:
        """The changes that are decided and not reached by the next row."""
        return self._log.planned(self.row)

    def coming_weights(self, num_changes: int) -> list[tuple[int, Vector]]:
        """(row, weights) of the next row and of the next changes, at most so many; not copied."""
        row: int | None = self.row
        found = [(self.row, self._log.at(self.row))]
        while len(found) <= num_changes:
            row = self._log.next_row(found[-1][0])
            if row is None:
                break
            found.append((row, self._log.at(row)))
        return found

    @property
    def counts(self) -> Counts:
        """(K,) int64, rows drawn of each domain."""
        return np.asarray(self._here.counts.sum(axis=0))

    @property
    def epochs(self) -> Vector:
        """(K,) float64, rows drawn over rows there are; 0 for a domain without rows."""
        return np.asarray(self.counts / np.maximum(self.num_rows, 1), dtype=np.float64)

    @property
    def num_draws(self) -> Counts:
        """(K,) int64, rows of each domain until its max_epochs, or until each row came once."""
        caps = self.settings.max_epochs or {}
        num_draws = self.num_rows * np.array([caps.get(name, 1) for name in self.domains])
        if isinstance(self._order, GrownOrder):
            capped = num_draws + self._order.of_domains(self._order.extra_rows)
            once = np.array([name in self._legs and name not in caps for name in self.domains])
            num_draws = np.where(once, self._order.of_domains(self._order.start), capped)
        return np.asarray(num_draws)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the state: equal samplers draw equal rows."""
        digest = hashlib.blake2b(self._layout_digest.encode(), digest_size=8)
        digest.update(json.dumps([asdict(self.settings), self.row], sort_keys=True).encode())
        digest.update(self._here.counts.tobytes() + self.weights.tobytes())
        for change in self.planned:
            digest.update(change.at_row.to_bytes(16, "little") + change.weights.tobytes())
        among = [change.among for change in (self._log.change_at(self.row), *self.planned)]
        if self._legs or any(among):  # after the corpus has grown
            digest.update(json.dumps([self._legs, among], sort_keys=True).encode())
        return digest.hexdigest()

    def take(self, num_rows: int) -> Addresses:
        """Draws the next rows.

        Returns:
            (n,) structured array of `domain` (int32) and `row` (int64, in shard order); n is
            num_rows, or less where "stop" (or the end of all domains) ends the run.

        Raises:
            WeightsError: an exhausted domain is asked for under on_exhausted="raise"; nothing is
                drawn then.
        """
        return self.addresses(self.draw(num_rows))

    def draw(self, num_rows: int) -> Draw:
        """Like `take`, without the addresses, which a rank needs for its own rows alone."""
        if num_rows < 0:
            raise ValueError(f"num_rows is {num_rows}; give at least 0.")
        self.version += 1
        start, end = self._here, self.row + operator.index(num_rows)
        parts = [NO_ROWS]
        try:
            while self.row < end:
                parts.append(self._drawn_by_one_table(end))
                if parts[-1].domain.size == 0:
                    break
        except WeightsError:
            self._here = start
            raise
        if len(parts) == 2:
            return parts[1]
        return Draw(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def marks(self, draw: Draw, every: int) -> list[Mark]:
        """The places after each `every` rows of a draw that begins at the next row; O(1) each.

        Args:
            draw: as `draw` gave it at this very place before a `rewind`.
            every: rows from each mark to the next.
        """
        groups = self._order.groups(draw.domain, draw.node)
        return [self._here.after(groups[:end]) for end in range(every, groups.size + 1, every)]

    def advance(self, mark: Mark) -> None:
        """Moves past the next rows without drawing them again.

        Args:
            mark: behind them, from `marks`; `version` tells whether they are still the next rows.
        """
        self._here = mark

    def addresses(self, draw: Draw) -> Addresses:
        """The addresses of drawn rows, (n,) structured as in `take`."""
        out = np.empty(draw.domain.size, dtype=ADDRESS)
        out["domain"] = draw.domain
        for begin in range(0, out.size, _ROWS_AT_ONCE):
            some = slice(begin, begin + _ROWS_AT_ONCE)
            out["row"][some] = self._order.rows(*(column[some] for column in draw))
        return out

    @property
    def slice_rows(self) -> Counts:
        """(C, K) int64, rows that each canonical node reads of each domain."""
        return self._order.slices.num_rows

    @property
    def is_shared(self) -> NDArray[np.bool_]:
        """(K,) bool, domains that all canonical nodes read as one."""
        num_nodes, num_domains = self.slice_rows.shape
        domain = np.arange(num_domains)
        last = self._order.groups(domain, np.full(num_domains, num_nodes - 1))
        return np.asarray((last < num_domains) & (num_nodes > 1), dtype=np.bool_)

    def coming_block(self, domain: int, node: int, ordinal: int) -> Block | None:
        """What a canonical node draws of a domain around one draw; nothing is drawn.

        Args:
            domain: index.
            node: canonical node; of a domain of fewer rows than nodes, any of them.
            ordinal: how often the node drew the domain before it.

        Returns:
            The block of rows in which the draw lies; None where the domain has none left for it.
        """
        block = self._order.block(domain, node, ordinal)
        if block is None or self._limits is None:
            return block
        group = self._order.groups(np.array([domain]), np.array([node]))
        return block if ordinal < self._limits.num_draws.ravel()[group[0]] else None

    def probe(self, domain: int, places: range, *, place: int, draw: int) -> Addresses:
        """Addresses of random rows of one domain, from a stream of their own.

        Args:
            domain: index.
            places: which of the domain's rows in the random order; past its end it starts anew.
            place: row of the run at which the probe is taken; another place, another order.
            draw: another draw, another order.

        Returns:
            (len(places),) addresses.

        Raises:
            WeightsError: the domain does not exist, or has no rows.
        """
        if not 0 <= domain < len(self.domains) or self.num_rows[domain] == 0:
            raise WeightsError(
                f"domain {domain} of {len(self.domains)} cannot be probed: it does not exist or "
                f"has no rows."
            )
        out = np.empty(len(places), dtype=ADDRESS)
        out["domain"] = domain
        key = stream_key(self.settings.seed, _PROBE_STREAM, place, draw)
        key = stream_key(key, name_key(self.domains[domain]))
        order = np.array(places) % self.num_rows[domain]
        out["row"] = permuted(order, self.num_rows[domain], key)
        return out

    def set_weights(
        self, weights: WeightsLike, *, at_row: int | None = None, reason: str = ""
    ) -> WeightChange:
        """Changes the weights from the next undrawn row on, or from a later one.

        A change for the same row replaces the earlier one; changes planned for later rows stay.

        Raises:
            WeightsError: not a point on the simplex, or no domain of positive weight has rows left.
            StepError: at_row is drawn already.
        """
        at_row = self.row if at_row is None else operator.index(at_row)
        if at_row < self.row:
            raise StepError(
                f"weights for row {at_row} come too late: the rows before {self.row} are drawn. "
                f"Plan them for row {self.row} or later."
            )
        point = self.checked(weights)
        if self._limits is not None and not point[~self._limits.exhausted(self._here.counts)].any():
            raise WeightsError(
                f"every domain of positive weight has reached its max_epochs: "
                f"{', '.join(np.array(self.domains)[point > 0][:10])}. Give weight to another."
            )
        change = WeightChange(at_row=at_row, weights=point, reason=reason)
        self.version += 1
        self._log.add(change)
        return replace(change, weights=point.copy())  # the caller's own, to change as it likes

    def checked(self, weights: WeightsLike) -> Vector:
        """The weights as `set_weights` would take them: (K,) float64, sum 1.

        Raises:
            WeightsError: weights that are no point on the simplex.
        """
        return simplex_point(weights, self.domains, self.num_rows, source="weights")

    def mark(self) -> Mark:
        """The present place, to `rewind` to."""
        return self._here

    def rewind(self, mark: Mark) -> None:
        """Goes back to a place: the same rows follow, but for changes decided since.

        Raises:
            StepError: the place is forgotten, or from before the state that was loaded.
        """
        self._log.at(mark.row)  # raises where its weights are forgotten
        self.version += 1
        self._here = mark

    def forget(self, mark: Mark) -> None:
        """Drops the changes that no place from `mark` on needs."""
        self._log.forget(mark.row)

    def state_dict(self, mark: Mark | None = None) -> SamplerState:
        """The state at the next undrawn row, or at a mark: JSON-able, O(K C).

        It holds the changes that are decided and not reached there, and what a corpus that has
        grown by then must begin with.

        Raises:
            StepError: the mark's place is forgotten.
        """
        mark = mark or self.mark()
        change = self._log.change_at(mark.row)
        if self._shards is None:
            self._shards = shard_lists(self._layout)
        return {
            "version": STATE_VERSION,
            "settings": asdict(self.settings),
            "layout": self._layout_digest,
            "domains": list(self.domains),
            "shards": {name: list(known) for name, known in self._shards.items()},
            "row": mark.row,
            "weights": dict(zip(self.domains, change.weights.tolist(), strict=True)),
            "among": None if change.among is None else list(change.among),
            "counts": mark.counts.tolist(),
            "changes": self._log.state(mark.row),
            "legs": {name: [list(leg) for leg in legs] for name, legs in self._legs.items()},
            "retired": copy.deepcopy(self._retired),
        }

    def load_state_dict(
        self,
        state: SamplerState,
        *,
        adopt_stratum: bool = False,
        on_retired: OnRetired = "raise",
    ) -> None:
        """Goes to the place of a state, whatever was drawn before.

        The layout may have grown since, by domains and by shards behind those of a domain, and may
        have lost domains. A new domain has weight 0 until it is named, and nothing else moves; new
        shards end the running epoch of their domain; what was drawn of a lost one is kept in the
        state, should it return.

        Args:
            state: from `state_dict`, perhaps by way of JSON.
            adopt_stratum: take the state's stratum over instead of refusing another one.
            on_retired: what a lost domain of positive weight does: "raise", or "redistribute" its
                weight to the others in proportion, in planned changes, too.

        Raises:
            StateError: the state is of another version, layout or setting; both values are named.
        """
        today = LayoutOfToday(
            layout=self._layout, digest=self._layout_digest, settings=self.settings
        )
        place = today.place(state, adopt_stratum=adopt_stratum, on_retired=on_retired)
        self.settings = place.settings
        if place.legs != self._legs:
            self._set_legs(place.legs)
        self.version += 1
        self._here, self._log = Mark(place.row, place.counts), place.log
        self._retired = place.retired

    def _set_legs(self, legs: dict[str, tuple[Leg, ...]]) -> None:
        """Lays out the rows of all domains, of which some may have grown in mid-run."""
        self._legs, settings = legs, self.settings
        self._order = row_order(self._layout, legs, settings)
        self._limits = None
        if settings.max_epochs is not None:
            self._limits = EpochLimits(
                settings.max_epochs,
                settings.on_exhausted,
                self.domains,
                self._order.slices.num_rows,
                self._order.extra_rows if isinstance(self._order, GrownOrder) else 0,
            )

    def _drawn_by_one_table(self, end: int) -> Draw:
        """The next rows up to `end`, a change of the weights, or the end of a domain."""
        row, counts = self.row, self._here.counts
        table = self._table_at(row, counts)
        if table is None:
            return NO_ROWS
        change_row = self._log.next_row(row)
        rows = np.arange(row, end if change_row is None else min(end, change_row))
        domain = self._domains_by(table, rows)
        node = rows % self.settings.num_canonical_nodes
        group = self._order.groups(domain, node)
        ordinal, groups, sizes = ordinals(group, counts.ravel())
        if self._limits is not None:
            allowed = self._limits.num_allowed(row, group, ordinal)
            if allowed < rows.size:
                domain, node, ordinal = domain[:allowed], node[:allowed], ordinal[:allowed]
                groups, sizes = np.unique(group[:allowed], return_counts=True)
        counts = counts.copy()
        counts.ravel()[groups] += sizes
        self._here = Mark(row + domain.size, counts)
        return Draw(domain, node, ordinal)

    def _table_at(self, row: int, counts: Counts) -> _Table | None:
        """The table of a row; None where no domain of positive weight is left."""
        change = self._log.change_at(row)
        masked = None if self._limits is None else self._limits.masked(counts)
        table = self._table
        if table is None or not table.is_of(change, masked):
            table = self._table = self._made_table(change, masked)
        return table

    def _made_table(self, change: WeightChange, masked: NDArray[np.bool_] | None) -> _Table | None:
        weights, columns = change.weights, None
        if masked is not None:
            weights = np.where(masked, 0.0, weights)
            if not weights.any():
                return None
            weights = weights / math.fsum(weights.tolist())
        if change.among is not None:
            weights, columns = weights_among(weights, self.domains, change.among)
        return _Table(change, masked, domain_table(weights, self._exact_stratum()), columns)

    def _exact_stratum(self) -> int | None:
        """Rows of a stratum that holds each domain's share."""
        return self.settings.stratum if self.settings.sampling == "stratified" else None

    def _domains_by(self, table: _Table, rows: Counts) -> Counts:
        """The domains of consecutive rows."""
        drawn = self._columns_by(table.columns, rows)
        return drawn if table.domains is None else np.asarray(table.domains[drawn])

    def _columns_by(self, table: DomainTable, rows: Counts) -> Counts:
        """The columns of the table that consecutive rows draw."""
        settings = self.settings
        if settings.sampling != "micro_batch":
            return table_domains(table, rows, seed=settings.seed, stratum=self._exact_stratum())
        assert settings.stratum is not None, "checked with the settings"
        return micro_batch_domains(
            table,
            rows,
            seed=settings.seed,
            micro_batch=settings.stratum,
            num_nodes=settings.num_canonical_nodes,
        )
