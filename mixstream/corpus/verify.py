"""A corpus -> its faults: every shard is read again and compared with index and manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mixstream.corpus.cache import file_fault, raw_shard_path
from mixstream.corpus.corpus import Corpus, open_corpus
from mixstream.corpus.index import read_index
from mixstream.corpus.layout import map_rows, read_layout
from mixstream.corpus.manifest import DomainEntry
from mixstream.corpus.packing import num_padding
from mixstream.corpus.shard import ShardEntry
from mixstream.errors import ShardError

__all__ = ["corpus_faults"]
