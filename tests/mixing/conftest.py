"""Fixtures of the mixing tests."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest


@pytest.fixture
def seconds() -> Callable[..., AbstractContextManager[None]]:
    """`with seconds(at_most=2):` fails where its body takes longer; for orders of growth alone."""

    @contextlib.contextmanager
    def limit(at_most: float) -> Iterator[None]:
        start = time.process_time()  # of this process: other work on the machine does not count
        yield
        assert time.process_time() - start < at_most

    return limit
