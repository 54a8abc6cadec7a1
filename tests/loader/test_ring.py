"""Worker processes that hand batches over in shared memory: order, errors, deaths, what is left."""

import contextlib
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import mixstream
from mixstream.arrays import ADDRESS
from mixstream.errors import MixstreamError, StateError, WorkerError
from mixstream.loader import slots
from mixstream.loader.ring import MAX_LENT, Ring, Transformed
from mixstream.loader.slots import Slots

OTHER_CONTEXTS = [
    pytest.param("spawn"),
    pytest.param("forkserver", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    assert ring_files() == []


def ring_files():
    """What of a ring's memory this process still has: descriptors and maps."""
    files = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            files.append(os.readlink(f"/proc/self/fd/{number}"))
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [name for name in (*files, *maps) if "memfd:mixstream" in name]


def numbered(start=0, stop=None, rows=4):
    """Addresses whose rows are their step, so that a batch says which one it is."""
    for step in itertools.count(start) if stop is None else range(start, stop):
        addresses = np.zeros(rows, ADDRESS)
        addresses["row"] = step
        yield addresses


def step_of(addresses):
    return int(addresses["row"][0])


# what workers do; at the top of the file, so that a spawned process finds them


def echoed(addresses):
    """A batch of a size that varies, each element of which is its step."""
    step = step_of(addresses)
    length = (step * 7919) % 50_000
    return {
        "tokens": torch.full((length,), step),
        "half": torch.full((3, 2), step % 128, dtype=torch.bfloat16),
        "array": np.full((2, 5), step, np.int16),
        "text": f"step {step}",
        "worker": os.getpid(),
    }


def is_echo(batch, step):
    return (
        batch["tokens"].shape == ((step * 7919) % 50_000,)
        and bool((batch["tokens"] == step).all())
        and bool((batch["half"] == step % 128).all())
        and bool((batch["array"] == step).all())
        and batch["text"] == f"step {step}"
    )


def late(addresses):
    """Every third batch takes longer than the two after it."""
    if step_of(addresses) % 3 == 0:
        time.sleep(0.03)
    return echoed(addresses)


class OddError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def failing_at_5(addresses):
    if step_of(addresses) == 5:
        raise mixstream.errors.ShardError("the disk is gone")
    return echoed(addresses)


def failing_oddly(addresses):
    raise OddError("this", "that")


def out_of_batches(addresses):
    raise StopIteration


def killed_at_5(addresses):
    if step_of(addresses) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return echoed(addresses)


def leaving_at_5(addresses):
    if step_of(addresses) == 5:
        sys.exit(3)
    return echoed(addresses)


def asleep(addresses):
    time.sleep(600)


def rolled(addresses):
    numbers = [torch.rand(()).item(), random.random(), np.random.random()]  # noqa: NPY002
    return {"numbers": numbers, "worker": os.getpid()}


def doubled(batch):
    return batch["tokens"] * 2, os.getpid()


def threads(addresses):
    return torch.get_num_threads(), os.environ.get("RING_TEST")


def named_by_init(number):
    os.environ["RING_TEST"] = f"worker {number}"


# order and content


def test_batches_come_in_order_whatever_worker_is_done_first():
    ring = Ring(late, num_workers=3, context="fork")
    batches = list(ring.batches(numbered(stop=30)))
    assert all(is_echo(batch, step) for step, batch in enumerate(batches))
    assert len(batches) == 30
    assert len({batch["worker"] for batch in batches}) == 3
    ring.close()


@pytest.mark.parametrize("context", OTHER_CONTEXTS)
def test_every_way_to_start_processes_gives_the_same(corpus, context):
    dataset = mixstream.RowDataset(corpus, labels=True)
    sampler = mixstream.MixSampler(corpus.layout, seed=3)
    expected = [dataset.batch(addresses) for addresses in taken(sampler, 12)]
    sampler = mixstream.MixSampler(corpus.layout, seed=3)
    found = Ring(dataset.batch, num_workers=1, context=context).batches(taken(sampler, 12))
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[name], other[name]) for name in other)


def taken(sampler, num_batches):
    return [sampler.take(5) for _ in range(num_batches)]


def test_as_many_batches_are_drawn_ahead_as_are_asked_for():
    drawn = []
    source = (drawn.append(step_of(addresses)) or addresses for addresses in numbered())
    batches = Ring(echoed, num_workers=2, prefetch_factor=3, context="fork").batches(source)
    for delivered in range(5):
        assert len(drawn) == delivered + 6
        assert is_echo(next(batches), delivered)


def test_a_source_that_ends_ends_the_batches_and_one_without_any_gives_none():
    ring = Ring(echoed, num_workers=2, context="fork")
    for length in (0, 1, 3, 9):
        batches = ring.batches(numbered(stop=length))
        assert [batch["text"] for batch in batches] == [f"step {step}" for step in range(length)]
        assert next(batches, None) is None
    ring.close()


scalar_types = st.sampled_from(["u1", "<u2", "i8", "f2", "f8", "c16", "?", "M8[s]", "S3", "U2"])
tensor_types = st.sampled_from(
    [
        torch.uint8,
        torch.uint16,
        torch.int64,
        torch.bfloat16,
        torch.float32,
        torch.bool,
        torch.cfloat,
    ]
)
shapes = st.lists(st.integers(0, 5), max_size=3)


@st.composite
def arrays(draw):
    shape = draw(shapes)
    content = draw(st.binary(min_size=64, max_size=64)) * 125
    array = np.frombuffer(content, "u1")[: int(np.prod(shape))].reshape(shape)
    array = (array % 2).astype(draw(scalar_types))
    return array.T if draw(st.booleans()) else array[..., ::-1] if array.ndim else array


@st.composite
def tensors(draw):
    shape = draw(shapes)
    tensor = torch.arange(int(np.prod(shape))).reshape(shape).to(draw(tensor_types))
    return tensor.t() if tensor.ndim == 2 and draw(st.booleans()) else tensor


leaves = arrays() | tensors() | st.text(max_size=3) | st.none() | st.integers()
objects = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner)
)


@given(batch=objects, lend=st.booleans(), slot=st.integers(0, 2))
@settings(deadline=None)
def test_what_is_written_into_a_slot_is_read_from_it(batch, lend, slot):
    found = Slots(3, 4)
    num_bytes = found.write(slot, batch)
    other, memory = found.read(slot, num_bytes, lend=lend)
    assert_equal(other, batch)
    assert memory.nbytes == num_bytes
    found.close()


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    else:
        assert found == expected


def test_tensors_that_are_more_than_their_bytes_come_through():
    found = Slots(1, 1)
    batch = [
        torch.ones(2, requires_grad=True),
        torch.tensor([1j]).conj(),
        torch.eye(3).to_sparse(),
        torch.ones(3).expand(2, 3),
        torch.zeros(4)[::2],
    ]
    others, _ = found.read(0, found.write(0, batch), lend=False)
    assert [tensor.requires_grad for tensor in others] == [True, False, False, False, False]
    for tensor, other in zip(batch, others, strict=True):
        assert torch.equal(tensor.detach().to_dense(), other.detach().to_dense())
    found.close()


def test_a_batch_larger_than_a_slot_is_refused(monkeypatch):
    found = Slots(1, 1)
    monkeypatch.setattr(slots, "SLOT_BYTES", 1 << 16)
    found.write(0, np.zeros(60_000, np.uint8))
    with pytest.raises(StateError, match=r"a batch of 100\d\d\d bytes is too large for worker"):
        found.write(0, np.zeros(100_000, np.uint8))
    found.close()


# whose a slot is


class Holding(RuleBasedStateMachine):
    """Whatever a loop keeps, drops, changes or leaves: no batch that it holds ever changes."""

    def __init__(self):
        super().__init__()
        self.ring = Ring(echoed, num_workers=2, context="fork")
        self.batches = self.ring.batches(numbered(), first_step=0)
        self.step = 0
        self.held = []

    @rule(count=st.integers(1, 12))
    def take_and_keep(self, count):
        for batch in itertools.islice(self.batches, count):
            self.held.append((self.step, batch))
            self.step += 1

    @rule(count=st.integers(1, 12))
    def take_and_drop(self, count):
        for batch in itertools.islice(self.batches, count):
            assert is_echo(batch, self.step)
            self.step += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop_some(self, data):
        kept = data.draw(st.sets(st.integers(0, len(self.held) - 1)))
        self.held = [self.held[i] for i in sorted(kept)]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def keep_one_tensor_of_a_batch(self, data):
        step, batch = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.held.append((step, {"half": batch["half"][1:]}))

    @precondition(lambda self: self.held)
    @rule()
    def write_into_the_last(self):
        _, batch = self.held.pop()
        for tensor in batch.values():
            if isinstance(tensor, torch.Tensor):
                tensor.fill_(7)

    @rule(back=st.integers(0, 9))
    def begin_anew(self, back):
        self.step = max(0, self.step - back)
        self.batches = self.ring.batches(numbered(self.step), first_step=self.step)

    @rule()
    def close_and_make_another(self):
        self.ring.close()
        self.ring = Ring(echoed, num_workers=1, prefetch_factor=3, context="fork")
        self.begin_anew(0)

    @invariant()
    def what_is_held_is_as_it_came(self):
        for step, batch in self.held:
            if len(batch) == 1:
                assert (batch["half"] == step % 128).all()
            else:
                assert is_echo(batch, step)

    def teardown(self):
        self.ring.close()


TestHolding = Holding.TestCase
TestHolding.settings = settings(max_examples=4, stateful_step_count=12, deadline=None)


def test_a_loop_that_keeps_few_batches_gets_no_copies_and_one_that_keeps_many_gets_all():
    ring = Ring(echoed, num_workers=2, context="fork")
    batches = ring.batches(numbered(1))
    for _ in range(20):
        last = next(batches)
        assert lies_in_a_slot(last["tokens"])
    del last
    kept = list(itertools.islice(batches, 20))
    assert [lies_in_a_slot(batch["tokens"]) for batch in kept] == [True] * MAX_LENT + [False] * 16
    kept = [batch["tokens"] for batch in kept]
    ring.close()
    assert [int(tokens[0]) for tokens in kept] == list(range(21, 41))


def lies_in_a_slot(tensor):
    place = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= place < high:
            return "memfd:mixstream" in line
    raise AssertionError("a tensor lies nowhere")


# errors


def test_an_error_comes_at_its_step_with_the_workers_traceback():
    ring = Ring(failing_at_5, num_workers=2, context="fork")
    batches = ring.batches(numbered(), first_step=1000)
    assert all(is_echo(next(batches), step) for step in range(5))
    with pytest.raises(mixstream.errors.ShardError, match=r"^the disk is gone$") as caught:
        next(batches)
    cause = caught.value.__cause__
    assert isinstance(cause, WorkerError)
    assert "step 1005 failed in worker" in str(cause)
    assert "in failing_at_5" in str(cause), "the worker's traceback names the place"
    assert ring.closed
    assert list(batches) == []


@pytest.mark.parametrize(
    ("make_batch", "text"),
    [(failing_oddly, "OddError: this and that"), (out_of_batches, "StopIter")],
)
def test_an_error_that_cannot_be_raised_here_comes_as_text(make_batch, text):
    batches = Ring(make_batch, num_workers=1, context="fork").batches(numbered())
    with pytest.raises(WorkerError, match=rf"(?s)step 0 failed in worker 0 of 1.*{text}") as caught:
        next(batches)
    assert isinstance(caught.value, MixstreamError)


@pytest.mark.parametrize(
    ("make_batch", "code", "mend"),
    [(killed_at_5, -9, "for want of memory"), (leaving_at_5, 3, "num_workers=0 shows it")],
)
def test_a_worker_that_ends_is_an_error_that_names_it_and_no_hang(make_batch, code, mend):
    ring = Ring(make_batch, num_workers=2, context="fork")
    batches = ring.batches(numbered())
    with pytest.raises(WorkerError) as caught:
        list(batches)
    assert f"ended with exit code {code} while it made step 5" in str(caught.value)
    assert mend in str(caught.value)
    assert ring.closed


def test_a_worker_that_is_killed_between_two_batches_is_an_error():
    ring = Ring(echoed, num_workers=1, context="fork")
    batches = ring.batches(numbered())
    worker = next(batches)["worker"]
    time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"exit code -9 between two batches; the loop waits"):
        list(batches)


def test_what_the_source_raises_comes_through_and_closes_the_ring():
    def source():
        yield from numbered(stop=6)
        raise KeyError("the source")

    ring = Ring(echoed, num_workers=2, context="fork")
    batches = ring.batches(source())
    with pytest.raises(KeyError, match="the source"):
        list(batches)
    assert ring.closed


def test_a_transform_that_cannot_be_sent_is_refused_with_the_mend():
    with pytest.raises(WorkerError, match=r"(?s)cannot be sent to a worker .*at the top of a file"):
        Ring(lambda addresses: addresses, num_workers=1, context="spawn")


@pytest.mark.parametrize("given_numbers", [(0, 2), (2, 0)])
def test_a_ring_without_workers_or_slots_is_refused(given_numbers):
    num_workers, prefetch_factor = given_numbers
    with pytest.raises(ValueError, match=f"num_workers is {num_workers} and prefetch_factor is"):
        Ring(echoed, num_workers=num_workers, prefetch_factor=prefetch_factor)


# iterating anew, and ends


def test_an_older_iterator_and_one_of_a_closed_ring_are_refused():
    ring = Ring(echoed, num_workers=1, context="fork")
    old = ring.batches(numbered())
    new = ring.batches(numbered(3))
    with pytest.raises(StateError, match=r"its ring was iterated again, or closed"):
        next(old)
    assert is_echo(next(new), 3)
    ring.close()
    with pytest.raises(StateError, match=r"its ring was iterated again, or closed"):
        next(new)
    with pytest.raises(StateError, match="this ring is closed"):
        ring.batches(numbered())


def test_workers_stay_for_the_next_iteration_and_pass_over_what_was_given_up():
    ring = Ring(late, num_workers=1, prefetch_factor=8, context="fork")
    first = next(ring.batches(numbered()))
    start = time.monotonic()
    second = next(ring.batches(numbered(100)))
    assert is_echo(second, 100)
    assert second["worker"] == first["worker"]
    assert time.monotonic() - start < 10
    ring.close()


@pytest.mark.parametrize("begun", [False, True])
def test_a_loop_that_is_left_ends_its_workers_at_once(begun):
    batches = Ring(echoed, num_workers=2, context="fork").batches(numbered())
    kept = next(batches) if begun else None
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert multiprocessing.active_children() == []
    assert kept is None or is_echo(kept, 0)


def test_a_worker_in_the_middle_of_a_long_batch_is_ended_by_force():
    ring = Ring(asleep, num_workers=2, context="fork")
    ring.batches(numbered())
    start = time.monotonic()
    ring.close()
    assert time.monotonic() - start < 30


def test_a_fork_of_the_process_that_drops_the_ring_does_not_end_it():
    ring = Ring(echoed, num_workers=1, context="fork")
    batches = ring.batches(numbered())
    child = os.fork()
    if child == 0:
        ring.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert all(is_echo(next(batches), step) for step in range(9))
    ring.close()


def test_workers_outlive_the_thread_that_made_them():
    made = []
    thread = threading.Thread(
        target=lambda: made.append(Ring(echoed, num_workers=1, context="fork").batches(numbered()))
    )
    thread.start()
    thread.join()
    batches = made.pop()
    assert all(is_echo(next(batches), step) for step in range(9))


def test_ctrl_c_is_the_parents_alone():
    batches = Ring(echoed, num_workers=1, context="fork").batches(numbered())
    for step in range(9):
        batch = next(batches)
        os.kill(batch["worker"], signal.SIGINT)
        assert is_echo(batch, step)


@pytest.mark.parametrize(
    "context",
    ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "forkserver"))],
)
def test_nothing_outlives_a_parent_that_is_killed(context, tmp_path):
    (tmp_path / "made.py").write_text(
        textwrap.dedent("""
            import os, time

            def told(addresses):
                print(os.getpid(), flush=True)
                time.sleep(600)
            """)
    )
    script = textwrap.dedent(f"""
        import itertools, sys
        import numpy as np
        from mixstream.arrays import ADDRESS
        from mixstream.loader.ring import Ring
        sys.path.insert(0, {str(tmp_path)!r})
        from made import told

        if __name__ == "__main__":
            source = itertools.repeat(np.zeros(3, ADDRESS))
            next(Ring(told, num_workers=2, context={context!r}).batches(source))
        """)
    (tmp_path / "main.py").write_text(script)
    command = [sys.executable, str(tmp_path / "main.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(is_running(worker) for worker in workers)
        parent.kill()
        parent.wait()
        until(lambda: not any(is_running(worker) for worker in workers))


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


# what workers are given


def test_random_numbers_depend_on_seed_and_step_and_not_on_the_worker():
    def numbers(num_workers, seed, first_step=0):
        ring = Ring(rolled, num_workers=num_workers, seed=seed, context="fork")
        batches = ring.batches(numbered(stop=8), first_step=first_step)
        return [tuple(batch["numbers"]) for batch in batches]

    expected = numbers(1, (17, 0))
    assert numbers(3, (17, 0)) == expected
    assert numbers(2, (17, 0), first_step=2)[:6] == expected[2:]
    assert len({*expected, *numbers(1, (17, 1)), *numbers(1, (18, 0))}) == 24


def test_a_worker_has_one_thread_and_calls_what_it_is_given_first():
    ring = Ring(threads, num_workers=1, context="fork", worker_init=named_by_init)
    assert next(ring.batches(numbered())) == (1, "worker 0")
    ring.close()


def test_without_memfd_the_memory_is_a_file_that_has_no_name(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    batches = Ring(echoed, num_workers=2, context="fork").batches(numbered())
    assert all(is_echo(next(batches), step) for step in range(9))
    assert list(tmp_path.iterdir()) == []


def test_a_transform_sees_the_batch_in_the_worker():
    ring = Ring(Transformed(echoed, doubled), num_workers=2, context="fork")
    for step, (tokens, worker) in enumerate(ring.batches(numbered(stop=9))):
        assert (tokens == 2 * step).all()
        assert worker != os.getpid()
    ring.close()


def test_a_dataset_travels_to_a_spawned_worker_in_a_few_kilobytes(corpus):
    assert len(pickle.dumps(mixstream.RowDataset(corpus).batch)) < 20_000
