"""Addressed random bits: numpy's Philox, keys that differ, permutations that are fair."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixstream.rng import name_key, permuted, row_words, stream_key
from tests.strategies import ODD_NAMES, seeds

MASK = 2**64 - 1

GOLDEN_WORDS = [
    7827655626955269698,
    13905770179772926406,
    5488809992839561652,
    11298297041051818983,
]
GOLDEN_KEY = 13008740764482979889
GOLDEN_NAMES = {
    "web": 8401084237428129872,
    "": 13020603013274838756,
    "中文/网页": 2298250406166948426,
}
GOLDEN_IMAGES = {
    1: [0],
    5: [2, 3, 0, 4, 1],
    32: [22, 24, 1, 31, 7, 2, 8, 6],
    33: [10, 30, 26, 23, 5, 21, 31, 2],
    1000: [520, 822, 479, 963, 86, 677, 342, 829],
    1000000000000: [
        503035005219,
        391784697866,
        548577587259,
        763264237943,
        262154423871,
        106922272372,
        219342406264,
        613369443893,
    ],
}


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Philox4x64-10 of Salmon et al. 2011, word by word."""
    c = [(counter >> shift) & MASK for shift in (0, 64, 128, 192)]
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k0, second & MASK, (first >> 64) ^ c[3] ^ k1, first & MASK]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c


def all_images(num_keys: int, size: int, positions: list[int], seed: int = 0) -> np.ndarray:
    """(num_keys, len(positions)) where each of many keys sends some positions."""
    keys = stream_key(seed, np.arange(num_keys, dtype=np.uint64))
    where = np.tile(np.array(positions, dtype=np.int64), num_keys)
    sizes = np.full(where.size, size, dtype=np.int64)
    return permuted(where, sizes, np.repeat(keys, len(positions))).reshape(num_keys, -1)


def test_the_reference_gives_the_known_answers_of_random123():
    assert philox(0, (0, 0)) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert philox(2**256 - 1, (MASK, MASK))[0] == 0x87B092C3013FE90B


@pytest.mark.parametrize("start", [0, 1, 2**32 - 1, 2**63, 2**64 - 2, 2**64 - 1, 2**64, 2**70])
@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (17, 0x446F6D), (MASK, MASK)])
def test_row_words_are_philox_of_the_row_as_the_counter(start, seed, stream):
    words = row_words(seed, stream, start, 3)
    assert words.shape == (3, 4)
    assert words.dtype == np.uint64
    assert words.tolist() == [philox(start + i, (seed, stream)) for i in range(3)]


def test_row_words_are_what_numpys_own_advance_reaches():
    generator = np.random.Philox(key=np.array([5, 6], dtype=np.uint64), counter=0)
    generator.advance(10**18 - 1)  # numpy steps before it draws
    assert row_words(5, 6, 10**18, 2).ravel().tolist() == generator.random_raw(8).tolist()


@given(
    seed=seeds(),
    start=st.integers(0, 2**40) | st.integers(2**64 - 30, 2**64 + 30),
    sizes=st.lists(st.integers(0, 7), max_size=6),
)
def test_any_split_of_a_range_gives_the_same_words(seed, start, sizes):
    starts = start + np.cumsum([0, *sizes], dtype=object)
    parts = [row_words(seed, 3, int(s), n) for s, n in zip(starts, sizes, strict=False)]
    whole = row_words(seed, 3, start, sum(sizes))
    assert np.concatenate([np.empty((0, 4), np.uint64), *parts]).tolist() == whole.tolist()


def test_bytes_of_words_keys_and_permutations_never_change():
    """A version that breaks this reorders every running job: raise the state's version then."""
    assert row_words(17, 0x446F6D, 10**12, 1).tolist() == [GOLDEN_WORDS]
    assert int(stream_key(17, 42, 3)) == GOLDEN_KEY
    assert name_key("web") == GOLDEN_NAMES["web"]
    assert name_key("") == GOLDEN_NAMES[""]
    assert name_key("中文/网页") == GOLDEN_NAMES["中文/网页"]
    key = np.uint64(0x0123456789ABCDEF)
    for size, images in GOLDEN_IMAGES.items():
        positions = np.arange(min(size, 8), dtype=np.int64)
        assert permuted(positions, np.array(size), key).tolist() == images


def test_name_key_is_the_same_in_another_process_with_another_hash_seed():
    script = "from mixstream.rng import name_key; print(name_key('web'))"
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", script]
        result = subprocess.run(
            command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        )
        assert int(result.stdout) == name_key("web")


def test_name_keys_of_odd_names_differ_and_fit_64_bits():
    names = [*ODD_NAMES, *(f"domain {i}" for i in range(20_000))]
    keys = {name_key(name) for name in names}
    assert len(keys) == len(names)
    assert all(0 <= key < 2**64 for key in keys)


def test_stream_keys_differ_by_value_and_by_order_and_by_number_of_parts():
    parts = [0, 1, 2, 2**32, 2**63, MASK]
    combinations = [c for n in (1, 2, 3) for c in itertools.product(parts, repeat=n)]
    keys = {int(stream_key(*c)) for c in combinations}
    assert len(keys) == len(combinations)


def test_stream_keys_broadcast_and_equal_the_keys_of_their_elements():
    rows, columns = np.arange(3, dtype=np.uint64), np.arange(5, dtype=np.uint64) + np.uint64(2**63)
    grid = stream_key(9, rows[:, None], columns[None, :])
    assert grid.shape == (3, 5)
    assert grid.dtype == np.uint64
    for i, j in itertools.product(range(3), range(5)):
        assert int(grid[i, j]) == int(stream_key(9, int(rows[i]), int(columns[j])))


@pytest.mark.parametrize("bit", [0, 31, 63])
def test_one_bit_of_a_part_changes_half_of_the_bits_of_the_key(bit):
    base = np.arange(20_000, dtype=np.uint64)
    for part in (0, 1, 2):
        parts = [base * np.uint64(3), base * np.uint64(5), base]
        flipped = [p ^ np.uint64((1 << bit) * (i == part)) for i, p in enumerate(parts)]
        changed = (
            64 * np.unpackbits((stream_key(*parts) ^ stream_key(*flipped)).view(np.uint8)).mean()
        )
        assert changed == pytest.approx(32, abs=0.25)  # 4 / sqrt(20,000) is 0.03 a sigma


@pytest.mark.parametrize("key", [0, 1, MASK])
def test_every_size_up_to_200_is_permuted_onto_itself(key):
    for size in range(1, 201):
        images = permuted(np.arange(size), np.array(size), np.uint64(key))
        assert images.dtype == np.int64
        assert sorted(images.tolist()) == list(range(size)), size


@settings(deadline=None, max_examples=30)
@given(size=st.integers(201, 50_000), key=seeds())
def test_a_large_size_is_permuted_onto_itself(size, key):
    images = permuted(np.arange(size), np.array(size), np.uint64(key))
    assert (np.bincount(images, minlength=size) == 1).all()
    assert images.size == size


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 70), min_size=1, max_size=6), key=seeds(), data=st.data())
def test_each_element_may_have_its_own_size_and_key(sizes, key, data):
    keys = [(key + i) & MASK for i in range(len(sizes))]
    elements = [(p, n, k) for n, k in zip(sizes, keys, strict=True) for p in range(n)]
    elements = data.draw(st.permutations(elements)) if len(elements) < 40 else elements
    positions, element_sizes = np.array([e[:2] for e in elements], dtype=np.int64).T
    element_keys = np.array([e[2] for e in elements], dtype=np.uint64)
    images = permuted(positions, element_sizes, element_keys)
    for (position, size, one_key), image in zip(elements, images.tolist(), strict=True):
        alone = permuted(np.array([position]), np.array([size]), np.uint64(one_key))
        assert image == alone[0]
    for size, one_key in zip(sizes, keys, strict=True):
        mine = (element_sizes == size) & (element_keys == np.uint64(one_key))
        assert set(images[mine].tolist()) == set(range(size))


@pytest.mark.parametrize("size", [2**31 - 1, 2**53 + 1, 10**12, 2**61 + 3, 2**62 - 1, 2**62])
def test_huge_sizes_stay_in_range_and_repeat_nothing(size):
    positions = np.concatenate([np.arange(20_000), size - 1 - np.arange(20_000)])
    images = permuted(positions, np.array(size), np.uint64(99))
    assert images.min() >= 0
    assert images.max() < size
    assert np.unique(images).size == positions.size
    thirds = np.bincount((images // (size // 3 + 1)).astype(np.int64), minlength=3)
    assert chisquare(thirds).pvalue > 1e-4


def test_nothing_is_permuted_to_nothing():
    empty = np.empty(0, dtype=np.int64)
    assert permuted(empty, empty, np.empty(0, dtype=np.uint64)).size == 0
    assert permuted(empty, np.array(1000), np.uint64(1)).size == 0


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_permutations_of_few_are_equally_frequent(size, seed):
    images = all_images(1000 * math.factorial(size), size, list(range(size)), seed)
    code = images @ (size ** np.arange(size))
    permutations, counts = np.unique(code, return_counts=True)
    assert permutations.size == math.factorial(size)
    assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("size", [10, 33, 64])
def test_all_pairs_of_images_are_equally_frequent(size):
    for pair in ([0, 1], [0, size - 1], [size // 2, size // 2 + 1]):
        images = all_images(400_000, size, pair)
        counts = np.bincount(images[:, 0] * size + images[:, 1], minlength=size**2)
        cells = counts.reshape(size, size)
        assert (cells.diagonal() == 0).all()
        assert chisquare(cells[~np.eye(size, dtype=bool)]).pvalue > 1e-4, pair


@pytest.mark.parametrize("size", [32, 33, 97, 1000])
def test_neighbours_part_and_fixed_points_are_as_rare_as_by_chance(size):
    num_keys = 1_000_000 // size
    images = all_images(num_keys, size, list(range(size)))
    fixed = (images == np.arange(size)).sum()
    neighbours = (np.abs(np.diff(images, axis=1)) == 1).sum()
    # of a random permutation: 1 fixed point, variance 1; 2 (n - 1) / n neighbours, variance about 2
    assert abs(fixed - num_keys) < 5 * math.sqrt(num_keys)
    expected = num_keys * 2 * (size - 1) / size
    assert abs(neighbours - expected) < 5 * math.sqrt(2 * num_keys)


def test_permutations_of_consecutive_keys_are_unrelated():
    size, num_keys = 1000, 300
    keys = np.arange(num_keys, dtype=np.uint64)  # raw, not mixed: the worst that a caller can do
    positions = np.tile(np.arange(size), num_keys)
    images = permuted(positions, np.array(size), np.repeat(keys, size)).reshape(num_keys, size)
    agreements = (images[1:] == images[:-1]).sum()
    assert abs(agreements - (num_keys - 1)) < 5 * math.sqrt(num_keys)
