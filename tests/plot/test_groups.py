"""Many domains in few colours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.plot.groups import domain_groups, printable
from mixstream.plot.palette import STYLES
from tests.plot.logs import names
from tests.strategies import ODD_NAMES, domain_names


def shares_of(domains, values=None):
    values = 1 / np.arange(1, len(domains) + 1) if values is None else np.array(values)
    return dict(zip(domains, (values / values.sum()).tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 2, 8])
def test_few_domains_are_all_named(k):
    groups = domain_groups([shares_of(names(k))])
    assert groups.named == tuple(names(k))
    assert groups.others == ()
    assert len(groups.labels) == len(groups.styles) == len(groups.areas) == k


def test_of_fifty_the_largest_are_named_in_the_order_of_the_manifest():
    values = np.ones(50)
    values[[49, 3, 17]] = 5
    groups = domain_groups([shares_of(names(50), values)])
    assert {names(50)[3], names(50)[17], names(50)[49]} <= set(groups.named)
    order = [names(50).index(name) for name in groups.named]
    assert order == sorted(order)
    assert groups.labels[-1] == "42 others"
    assert len(groups.labels) == len(STYLES) + 1


def test_a_single_other_keeps_its_name():
    assert domain_groups([shares_of(names(9))]).labels[-1] == names(9)[8]


def test_a_domain_has_one_colour_in_all_runs():
    groups = domain_groups([shares_of(["a", "b"]), shares_of(["b", "c"])])
    assert groups.named == ("a", "b", "c")
    assert groups.summed(["b", "c"], np.array([[0.25, 0.75]])).tolist() == [[0, 0.25, 0.75]]
    assert groups.columns(["b", "c"]) == ([None, 0, 1], [])


@given(domains=domain_names(max_size=30), data=st.data())
def test_every_share_is_in_exactly_one_group(domains, data):
    floats = st.lists(st.floats(0.01, 1), min_size=len(domains), max_size=len(domains))
    shares = shares_of(domains, data.draw(floats))
    groups = domain_groups([shares])
    summed = groups.summed(domains, np.array([list(shares.values())]))
    assert summed.sum() == pytest.approx(1)
    places, rest = groups.columns(domains)
    assert sorted([*places, *rest]) == list(range(len(domains)))
    if rest:
        assert summed[0, -1] == pytest.approx(sum(shares[domains[i]] for i in rest))


@given(name=st.sampled_from(ODD_NAMES) | st.text(st.characters(codec="utf-8"), max_size=60))
def test_labels_are_short_single_lines_that_steer_nothing(name):
    label = printable(name)
    assert 1 <= len(label) <= 20
    assert len(label.splitlines()) == 1
    assert "\u202e" not in label
