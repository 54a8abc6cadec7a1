"""Domain weights + layout -> the address of every row of the run, in order; the live hook.

Row i of the run depends on the layout, the settings, the weights in force at row i, and on which
rows came before; on nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from mixstream.arrays import ADDRESS, Addresses, Counts, Vector
from mixstream.errors import StepError, WeightsError
from mixstream.mixing.alias import DomainTable, domain_table, table_domains
from mixstream.mixing.changes import WeightLog
from mixstream.mixing.draw import NO_ROWS, Draw, ordinals
from mixstream.mixing.exhaustion import EpochLimits
from mixstream.mixing.order import RowOrder
from mixstream.mixing.settings import (
    OnExhausted,
    OrderSettings,
    Sampling,
    checked_layout,
    epoch_caps,
)
from mixstream.mixing.state import (
    STATE_VERSION,
    Mark,
    SamplerState,
    checked_place,
    checked_settings,
)
from mixstream.mixing.weights import WeightChange, WeightsLike, natural_weights, simplex_point
from mixstream.rng import name_key, permuted, stream_key

__all__ = ["Draw", "Mark", "MixSampler", "SamplerState"]

_PROBE_STREAM = 0x50726F  # keys of the probes, apart from every other use of the seed


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
        self._order = RowOrder(
            layout,
            seed=self.settings.seed,
            num_canonical_nodes=self.settings.num_canonical_nodes,
            shuffle=shuffle,
            shuffle_block_rows=self.settings.shuffle_block_rows,
        )
        self._limits = (
            EpochLimits(
                self.settings.max_epochs,
                self.settings.on_exhausted,
                self.domains,
                self._order.slices.num_rows,
            )
            if self.settings.max_epochs is not None
            else None
        )
        first = natural_weights(self.num_rows) if weights is None else self.checked(weights)
        self.version = 0
        """Grows with every move and every change, but for `advance`."""
        self._row = 0
        self._counts = np.zeros_like(self._order.slices.num_rows)
        self._log = WeightLog(0, first)
        self._table: DomainTable | None = None
        self._masked = np.zeros(len(self.domains), dtype=bool)

    @property
    def row(self) -> int:
        """The next row of the run that is not drawn yet."""
        return self._row

    @property
    def weights(self) -> Vector:
        """(K,) float64, the weights of the next row, before exhausted domains are left out."""
        return self._log.at(self._row).copy()

    @property
    def planned(self) -> tuple[WeightChange, ...]:
        """The changes that are decided and not reached by the next row."""
        return self._log.planned(self._row)

    @property
    def counts(self) -> Counts:
        """(K,) int64, rows drawn of each domain."""
        return np.asarray(self._counts.sum(axis=0))

    @property
    def epochs(self) -> Vector:
        """(K,) float64, rows drawn over rows there are; 0 for a domain without rows."""
        return np.asarray(self.counts / np.maximum(self.num_rows, 1), dtype=np.float64)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the state: equal samplers draw equal rows."""
        digest = hashlib.blake2b(self._layout_digest.encode(), digest_size=8)
        digest.update(json.dumps([asdict(self.settings), self._row], sort_keys=True).encode())
        digest.update(self._counts.tobytes() + self.weights.tobytes())
        for change in self.planned:
            digest.update(change.at_row.to_bytes(16, "little") + change.weights.tobytes())
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
        start, end = self.mark(), self._row + operator.index(num_rows)
        parts = [NO_ROWS]
        try:
            while self._row < end:
                parts.append(self._drawn_by_one_table(end))
                if parts[-1].domain.size == 0:
                    break
        except WeightsError:
            self.rewind(start)
            raise
        if len(parts) == 2:
            return parts[1]
        return Draw(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def advance(self, draw: Draw) -> None:
        """Moves past the next rows without drawing them again.

        Args:
            draw: these rows, as `draw` gave them at this very place before a `rewind`; `version`
                tells whether it is still the place.
        """
        np.add.at(self._counts.ravel(), self._order.groups(draw.domain, draw.node), 1)
        self._row += draw.domain.size
        self._table = None

    def addresses(self, draw: Draw) -> Addresses:
        """The addresses of drawn rows, (n,) structured as in `take`."""
        out = np.empty(draw.domain.size, dtype=ADDRESS)
        out["domain"] = draw.domain
        out["row"] = self._order.rows(*draw)
        return out

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
        at_row = self._row if at_row is None else operator.index(at_row)
        if at_row < self._row:
            raise StepError(
                f"weights for row {at_row} come too late: the rows before {self._row} are drawn. "
                f"Plan them for row {self._row} or later."
            )
        point = self.checked(weights)
        if self._limits is not None and not point[~self._limits.exhausted(self._counts)].any():
            raise WeightsError(
                f"every domain of positive weight has reached its max_epochs: "
                f"{', '.join(np.array(self.domains)[point > 0][:10])}. Give weight to another."
            )
        change = WeightChange(at_row=at_row, weights=point, reason=reason)
        self.version += 1
        self._log.add(change)
        self._table = None
        return replace(change, weights=point.copy())  # the caller's own, to change as it likes

    def checked(self, weights: WeightsLike) -> Vector:
        """The weights as `set_weights` would take them: (K,) float64, sum 1.

        Raises:
            WeightsError: weights that are no point on the simplex.
        """
        return simplex_point(weights, self.domains, self.num_rows, source="weights")

    def mark(self) -> Mark:
        """The present place, to `rewind` to; O(K C)."""
        return Mark(self._row, self._counts.copy())

    def rewind(self, mark: Mark) -> None:
        """Goes back to a place: the same rows follow, but for changes decided since.

        Raises:
            StepError: the place is forgotten, or from before the state that was loaded.
        """
        self._log.at(mark.row)  # raises where its weights are forgotten
        self.version += 1
        self._row, self._counts, self._table = mark.row, mark.counts.copy(), None

    def forget(self, mark: Mark) -> None:
        """Drops the changes that no place from `mark` on needs."""
        self._log.forget(mark.row)

    def state_dict(self, mark: Mark | None = None) -> SamplerState:
        """The state at the next undrawn row, or at a mark: JSON-able, O(K C).

        It holds the changes that are decided and not reached there.

        Raises:
            StepError: the mark's place is forgotten.
        """
        mark = mark or self.mark()
        return {
            "version": STATE_VERSION,
            "settings": asdict(self.settings),
            "layout": self._layout_digest,
            "row": mark.row,
            "weights": dict(zip(self.domains, self._log.at(mark.row).tolist(), strict=True)),
            "counts": mark.counts.tolist(),
            "changes": self._log.state(mark.row),
        }

    def load_state_dict(self, state: SamplerState, *, adopt_stratum: bool = False) -> None:
        """Goes to the place of a state, whatever was drawn before.

        Args:
            state: from `state_dict`, perhaps by way of JSON.
            adopt_stratum: take the state's stratum over instead of refusing another one.

        Raises:
            StateError: the state is of another version, layout or setting; both values are named.
        """
        settings = checked_settings(
            state,
            self.settings,
            layout=self._layout_digest,
            domains=self.domains,
            adopt_stratum=adopt_stratum,
        )
        row, counts, log = checked_place(state, self.domains, self._counts.shape)
        self.settings = settings
        self.version += 1
        self._row, self._counts, self._log, self._table = row, counts, log, None

    def _drawn_by_one_table(self, end: int) -> Draw:
        """The next rows up to `end`, a change of the weights, or the end of a domain."""
        if self._table is None:
            self._table = self._made_table()
        if self._table is None:
            return NO_ROWS
        change_row = self._log.next_row(self._row)
        rows = np.arange(self._row, end if change_row is None else min(end, change_row))
        settings = self.settings
        domain = self._domains_by(self._table, rows)
        node = rows % settings.num_canonical_nodes
        group = self._order.groups(domain, node)
        counts = self._counts.ravel()
        ordinal, groups, sizes = ordinals(group, counts)
        if self._limits is not None:
            allowed = self._limits.num_allowed(self._row, group, ordinal)
            if allowed < rows.size:
                domain, node, ordinal = domain[:allowed], node[:allowed], ordinal[:allowed]
                groups, sizes = np.unique(group[:allowed], return_counts=True)
        counts[groups] += sizes
        self._row += domain.size
        if self._row == change_row or self._has_ended_domain():
            self._table = None
        return Draw(domain, node, ordinal)

    def _has_ended_domain(self) -> bool:
        """Whether a domain that the present table draws may not be drawn any more."""
        if self._limits is None:
            return False
        return bool((self._limits.masked(self._counts) != self._masked).any())

    def _made_table(self) -> DomainTable | None:
        """The table of the next row; None where no domain of positive weight is left."""
        weights = self._log.at(self._row)
        if self._limits is not None:
            self._masked = self._limits.masked(self._counts)
            weights = np.where(self._masked, 0.0, weights)
            if not weights.any():
                return None
            weights = weights / math.fsum(weights.tolist())
        return domain_table(weights, self._exact_stratum())

    def _exact_stratum(self) -> int | None:
        """Rows of a stratum that holds each domain's share."""
        return self.settings.stratum if self.settings.sampling == "stratified" else None

    def _domains_by(self, table: DomainTable, rows: Counts) -> Counts:
        """The domains of consecutive rows; those of a micro-batch are drawn as one row.

        For 2 canonical nodes and micro-batches of 3 rows, rows 0, 2, 4 are drawn as row 0, rows 1,
        3, 5 as row 1, rows 6, 8, 10 as row 2.
        """
        settings = self.settings
        if settings.sampling != "micro_batch":
            return table_domains(table, rows, seed=settings.seed, stratum=self._exact_stratum())
        assert settings.stratum is not None, "checked with the settings"
        num_nodes = settings.num_canonical_nodes
        number = rows // (num_nodes * settings.stratum) * num_nodes + rows % num_nodes
        first = int(number.min())
        drawn = table_domains(
            table, np.arange(first, int(number.max()) + 1), seed=settings.seed, stratum=None
        )
        return np.asarray(drawn[number - first])
