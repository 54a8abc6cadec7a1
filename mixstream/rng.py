"""Random bits and keyed permutations, addressed by index: the same index gives the same bits.

Nothing here remembers anything. Words come from Philox4x64-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), whose i-th block of four words is a function of (key, i). Keys come
from a 64-bit mixer, permutations from a Feistel network over the mixed radix a x b >= n.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mixstream.arrays import Counts, Words

__all__ = ["name_key", "permuted", "row_words", "stream_key"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: steps that are spread evenly
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = (np.uint64(shift) for shift in (27, 30, 31, 32))
_NUM_ROUNDS = 8  # at 6 the pairs of sizes below 100 fail a chi-square test of 4e5 keys
_SMALL = 32  # below, a network has too few distinct rounds to reach all permutations: rank instead


def name_key(name: str) -> int:
    """A 64-bit key of a name, the same in every process and version of Python."""
    return int.from_bytes(
        hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little"
    )


def row_words(seed: int, stream: int, start: int, num_rows: int) -> Words:
    """The words of rows `start` to `start + num_rows` of a stream.

    Args:
        seed: of the run, in [0, 2^64).
        stream: which of the run's streams, in [0, 2^64).
        start: first row, >= 0.
        num_rows: how many.

    Returns:
        (num_rows, 4) uint64; row i is Philox(key=(seed, stream), counter=i).
    """
    # numpy steps the counter before it draws: a generator at counter c yields block c + 1 first
    before = (start - 1) % 2**256
    counter = np.array([(before >> shift) % 2**64 for shift in (0, 64, 128, 192)], dtype=np.uint64)
    philox = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=counter)
    return np.asarray(philox.random_raw(4 * num_rows)).reshape(num_rows, 4)


def stream_key(*parts: int | Words) -> Words:
    """A 64-bit key for every combination of the parts, which broadcast against each other.

    Returns:
        uint64 array of the broadcast shape (0-d if all parts are integers). Other parts, or the
        same in another order, give an unrelated key.
    """
    key = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            key = _mixed((key ^ np.asarray(part, dtype=np.uint64)) * _MIX_1 + _GOLDEN)
    return key


def permuted(position: Counts, size: Counts, key: Words) -> Counts:
    """Where a keyed permutation of [0, size) sends each position.

    A Feistel network on pairs (left, right) in [0, a) x [0, b), a b >= size > a b - a, walked until
    it lands below size again (almost never twice). Computed element by element, so nothing of the
    length of `size` is ever stored, and each element may have its own size and key.

    Args:
        position: (n,) int64, each in [0, size).
        size: (n,) int64 or a scalar, in [1, 2^62].
        key: (n,) uint64 or a scalar.

    Returns:
        (n,) int64, each in [0, size).
    """
    size = np.broadcast_to(np.asarray(size, dtype=np.int64), position.shape)
    key = np.broadcast_to(key, position.shape)
    small = size <= _SMALL
    if not small.any():
        return _walked(position, size, key)
    out = np.empty_like(position)
    out[small] = _ranked(position[small], size[small], key[small])
    large = ~small
    out[large] = _walked(position[large], size[large], key[large])
    return out


def _ranked(position: Counts, size: Counts, key: Words) -> Counts:
    """The rank of each position's hash among the hashes of all positions below size."""
    columns = np.arange(size.max(initial=0))
    hashes = stream_key(key[:, None], columns.astype(np.uint64)[None, :])
    own = np.take_along_axis(hashes, position[:, None], axis=1)
    before = (hashes < own) & (columns[None, :] < size[:, None])
    return np.asarray(before.sum(axis=1, dtype=np.int64))


def _walked(position: Counts, size: Counts, key: Words) -> Counts:
    """The network, again and again for those that it sends to size or above."""
    root = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.int64)
    num_right = -(-size // root)
    out = _feistel(position, root, num_right, key)
    outside = np.flatnonzero(out >= size)
    while outside.size:
        out[outside] = _feistel(out[outside], root[outside], num_right[outside], key[outside])
        outside = outside[out[outside] >= size[outside]]
    return np.asarray(out)


def _feistel(position: Counts, num_left: Counts, num_right: Counts, key: Words) -> Counts:
    """One pass of the network over [0, num_left * num_right): a permutation of it for every key."""
    radix_left, radix_right = num_left.astype(np.uint64), num_right.astype(np.uint64)
    quotient = position // num_right
    right = (position - quotient * num_right).astype(np.uint64)
    left = quotient.astype(np.uint64)
    round_key = key.copy()
    for index in range(_NUM_ROUNDS):
        round_key *= _MIX_2
        round_key += _GOLDEN
        if index % 2 == 0:
            left = _shifted(left, right, radix_left, round_key)
        else:
            right = _shifted(right, left, radix_right, round_key)
    return (left * radix_right + right).astype(np.int64)


def _shifted(half: Words, other: Words, radix: Words, round_key: Words) -> Words:
    """`half` plus a keyed hash of `other`, modulo radix."""
    noise = other ^ round_key
    noise *= _MIX_1
    noise ^= noise >> _S32
    noise *= _MIX_2
    noise >>= _S32
    noise *= radix
    noise >>= _S32  # uniform in [0, radix), radix < 2^32
    noise += half
    return np.minimum(noise, noise - radix)  # below radix, the difference wraps to a huge number


def _mixed(key: Words) -> Words:
    """The finaliser of splitmix64: every output bit depends on every input bit."""
    key = (key ^ (key >> _S30)) * _MIX_1
    key = (key ^ (key >> _S27)) * _MIX_2
    return key ^ (key >> _S31)
