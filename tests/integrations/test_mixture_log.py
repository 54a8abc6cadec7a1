import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mixstream
from mixstream.integrations.mixture_log import MixtureLog, metric_names
from mixstream.integrations.steering import apply_steer
from mixstream.integrations.tensorboard import TensorBoardMixture
from tests.integrations.conftest import FIRST, SECOND

MLFLOW_NAME = re.compile(r"[A-Za-z0-9_\-. /]+")


def delivered(loader, num_steps):
    return np.concatenate([b["domain_ids"] for b in itertools.islice(loader, num_steps)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_numbers_are_those_of_the_delivered_rows(corpus, num_workers):
    loader = mixstream.Loader(corpus, FIRST, batch_size=8, num_workers=num_workers)
    mixture = MixtureLog(loader)
    delivered(loader, 3)
    mixture.log(3)
    domains = delivered(loader, 5)
    found = mixture.log(8)
    counts = np.bincount(domains, minlength=len(corpus.domains))
    for index, name in enumerate(corpus.domains):
        assert found[f"mix/drawn/{name}"] == counts[index] / 40
        assert found[f"mix/weight/{name}"] == pytest.approx(FIRST[name])
    assert found["mix/rows"] == 64
    epochs = np.array([found[f"mix/epochs/{name}"] for name in corpus.domains])
    assert (epochs * corpus.num_rows).sum() == pytest.approx(64)


def test_asking_twice_at_a_step_gives_the_same_numbers_and_leaves_the_window_alone(corpus):
    loader = mixstream.Loader(corpus, FIRST, batch_size=8)
    mixture = MixtureLog(loader)
    delivered(loader, 2)
    first = mixture.log(2)
    first["mix/rows"] = -1.0
    assert mixture.log(2)["mix/rows"] == 16
    assert mixture.log(2).keys() == first.keys()


def test_shares_of_no_rows_are_left_out(corpus):
    loader = mixstream.Loader(corpus, FIRST, batch_size=8)
    mixture, state = MixtureLog(loader), loader.state_dict()
    assert not any(name.startswith("mix/drawn") for name in mixture.log(0))
    delivered(loader, 2)
    assert any(name.startswith("mix/drawn") for name in mixture.log(2))
    loader.load_state_dict(state)
    assert not any(name.startswith("mix/drawn") for name in mixture.log(3))


def test_a_change_is_in_the_numbers_once_a_batch_has_felt_it(corpus):
    loader = mixstream.Loader(corpus, FIRST, batch_size=8)
    mixture = MixtureLog(loader, prefix="data")
    delivered(loader, 1)
    apply_steer(lambda step, metrics: SECOND if step == 1 else None, loader, 1, {})
    assert mixture.log(1)["data/weight/books"] == pytest.approx(SECOND["books"])
    apply_steer(lambda step, metrics: SECOND if step == 1 else None, loader, 2, {})
    apply_steer(None, loader, 3, {})
    assert loader.weights.tolist() == pytest.approx([SECOND[name] for name in loader.domains])


@given(domains=st.lists(st.text("aB9_:?é /.-", min_size=1), unique=True, max_size=20))
def test_names_are_taken_by_mlflow_and_differ(domains):
    names = metric_names(domains)
    assert len(set(names)) == len(names) == len(domains)
    assert all(MLFLOW_NAME.fullmatch(name) for name in names)


def test_plain_names_stay_and_equal_ones_are_told_apart():
    assert metric_names(["web/en", "a:b", "a?b"]) == ["web/en", "a_b", "a_b_"]


def test_tensorboard_reads_the_numbers_back(corpus, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    loader = mixstream.Loader(corpus, FIRST, batch_size=8)
    with SummaryWriter(tmp_path) as writer:
        mixture = TensorBoardMixture(writer, loader)
        for step in (10, 20):
            delivered(loader, 10)
            mixture.log(step)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("mix/weight/web")] == [10, 20]
    assert events.Scalars("mix/weight/web")[0].value == pytest.approx(FIRST["web"])
    assert events.Scalars("mix/rows")[1].value == 160
    assert "custom_scalars__config__" in events.Tags()["tensors"]
