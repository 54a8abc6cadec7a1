import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.planning.link import Link


def ends_of(starts, *, rate, latency):
    """(start, bytes) of each download -> when each ends."""
    link, ends, coming = Link(rate, latency), {}, sorted(enumerate(starts), key=lambda s: s[1][0])
    now = 0.0
    while coming or link.active:
        begins = coming[0][1][0] if coming else math.inf
        now = max(now, min(begins, link.next_done()))
        for number in link.done(now):
            ends[number] = now
        if coming and begins <= now:
            number, (_, num_bytes) = coming.pop(0)
            link.start(number, num_bytes, now)
    return ends


def test_downloads_share_the_rate_evenly():
    # 100 bytes alone, 10 a second; the second begins at 6 s, and both come at 5 a second then
    assert ends_of([(0, 100), (5, 20)], rate=10, latency=1.0) == pytest.approx({1: 10, 0: 13})


def test_nothing_comes_before_its_latency():
    link = Link(10, 2.0)
    assert link.next_done() == math.inf
    link.start(3, 0, 1.0)
    assert link.next_done() == 3.0
    assert (link.done(2.5), link.done(3.0), link.active) == ([], [3], ())


@given(
    starts=st.lists(st.tuples(st.floats(0, 50), st.integers(1, 1000)), min_size=1, max_size=8),
    rate=st.floats(1, 1e4),
    latency=st.floats(0, 3),
)
def test_no_byte_comes_faster_than_the_rate_and_none_is_held_back(starts, rate, latency):
    ends = ends_of(starts, rate=rate, latency=latency)
    assert set(ends) == set(range(len(starts)))
    total = sum(num_bytes for _, num_bytes in starts)
    first, last = min(start for start, _ in starts), max(ends.values())
    assert last >= first + latency + total / rate - 1e-4
    assert last <= max(start for start, _ in starts) + latency + total / rate + 1e-4
    for number, (start, num_bytes) in enumerate(starts):
        assert ends[number] >= start + latency + num_bytes / rate - 1e-4
