"""Progress in words: what is done, how fast, and how long it will take."""

import doctest
import io

from mixstream.cli import arguments, progress
from mixstream.cli.progress import ProgressDisplay, progress_lines
from mixstream.corpus.progress import DomainWork, Work


def work(earlier=0, **domains):
    """Domains as (done, total, documents, tokens)."""
    keys = ("done_bytes", "total_bytes", "documents", "tokens")
    parts = {
        name: DomainWork(**dict(zip(keys, numbers, strict=True)))
        for name, numbers in domains.items()
    }
    return Work(domains=parts, earlier_bytes=earlier, earlier_tokens=earlier // 4)


def test_worked_examples_in_the_docstrings_hold():
    assert doctest.testmod(progress).failed == doctest.testmod(arguments).failed == 0


def test_rates_and_time_left_are_those_of_this_run():
    lines = progress_lines(
        work(
            earlier=1_000_000,
            web=(3_000_000, 5_000_000, 12_345, 750_000),
            done=(1_000_000, 1_000_000, 10, 250_000),
            untouched=(0, 2_000_000, 0, 0),
        ),
        seconds=10,
    )
    assert lines == [
        "web |############........|  60% 3 MB of 5 MB  12,345 documents",
        "all |##########..........|  50% 4 MB of 8 MB  12,355 documents  1 of 3 domains"
        "  300 kB/s  75,000 tokens/s  0:13 left",
    ]


def test_before_anything_is_done_no_rate_is_made_up():
    assert progress_lines(work(web=(0, 10, 0, 0)), seconds=0) == [
        "all |....................|   0% 0 B of 10 B  0 documents  0 of 1 domains"
    ]


def test_many_domains_take_eight_lines_and_one_for_all():
    domains = {f"d{i}": (1, 2, 0, 0) for i in range(30)}
    assert len(progress_lines(work(**domains), 1)) == 9


def test_a_terminal_is_drawn_over_and_a_file_gets_few_plain_lines():
    for is_terminal in (True, False):
        stream = io.StringIO()
        display = ProgressDisplay(stream, is_terminal=is_terminal)
        for done in range(5):
            display.update(work(web=(done, 9, 0, 0)))
        display.close()
        written = stream.getvalue()
        assert ("\x1b[" in written) == is_terminal
        assert written.count("all |") == (5 if is_terminal else 0)
