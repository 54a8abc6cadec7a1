"""A finished corpus -> what stays of it when it grows: shards, counts, and the way to know it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from mixstream.corpus.index import ShardIndex, read_index
from mixstream.corpus.inputs import Inputs, inputs_json
from mixstream.corpus.jsonfile import Json
from mixstream.corpus.manifest import DomainEntry, Manifest
from mixstream.corpus.provenance import PROVENANCE
from mixstream.corpus.shard import ShardEntry

__all__ = ["Base", "remembered"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A corpus that is appended to."""

    folder: Path
    manifest: Manifest

    def _index(self, domain: str) -> ShardIndex:
        return read_index(self.folder / domain)

    def entries(self, domain: str) -> list[ShardEntry]:
        """Its shards of a domain; none of one that is new."""
        if domain not in self.manifest.domains:
            return []
        index = self._index(domain)
        return [index.entry(number) for number in range(len(index.num_rows))]

    def contents(self) -> dict[str, list[tuple[int, int, str]]]:
        """Its shards of each domain, as `fingerprint` takes them."""
        return {name: self._index(name).contents() for name in self.manifest.domains}

    def provenance(self, domain: str) -> Path | None:
        """Where its pieces of a domain are told, if it has the domain."""
        known = domain in self.manifest.domains
        return self.folder / domain / PROVENANCE if known else None

    def grown(self, new: Manifest, inputs: Inputs) -> Manifest:
        """The manifest of this corpus and the new units: new domains stand behind the old ones.

        Args:
            new: counts of the new units alone, and the fingerprint of all.
            inputs: all raw files.
        """
        domains = dict(self.manifest.domains)
        for name, entry in new.domains.items():
            domains[name] = _sum(domains[name], entry) if name in domains else entry
        return replace(
            self.manifest,
            recipe={**self.manifest.recipe, "inputs": inputs_json(inputs)},
            domains=domains,
            fingerprint=new.fingerprint,
            history=[*self.manifest.history, remembered(self)],
        )


def remembered(base: Base) -> dict[str, Json]:
    """What is to be known of a corpus that is no more: its fingerprint and the shards it had.

    A later corpus whose domains begin with these shards holds every row under its old address.
    """
    domains: dict[str, Json] = {
        name: {"shards": len(shards), "rows": sum(rows for rows, _, _ in shards)}
        for name, shards in base.contents().items()
    }
    order: list[Json] = list(domains)
    return {"fingerprint": base.manifest.fingerprint, "domains": domains, "domain_order": order}


def _sum(one: DomainEntry, other: DomainEntry) -> DomainEntry:
    counts = {
        name: getattr(one, name) + getattr(other, name)
        for name in ("documents", "tokens", "rows", "padding", "dropped_tokens", "text_bytes",
                     "documents_cut")
    }  # fmt: skip
    dropped = Counter(one.dropped) + Counter(other.dropped)
    return replace(one, **counts, dropped=dict(sorted(dropped.items())))
