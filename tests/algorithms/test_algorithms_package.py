import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import mixstream.algorithms as algorithms
from mixstream.algorithms import DGA, Algorithm, DoReMi


def test_public_names_are_sorted_and_there():
    names = algorithms.__all__
    constants = [name for name in names if re.fullmatch("[A-Z]+", name)]
    classes = [name for name in names if name[0].isupper() and name not in constants]
    functions = [name for name in names if name[0].islower()]
    assert names == sorted(constants) + sorted(classes) + sorted(functions)
    assert all(hasattr(algorithms, name) for name in names)


def test_importing_the_package_imports_neither_scipy_nor_torch():
    code = (
        "import sys, mixstream.algorithms; "
        "bad = {'scipy', 'torch', 'lightgbm', 'streaming', 'pyarrow'} & set(sys.modules); "
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_methods_are_algorithms():
    methods: list[Algorithm] = [
        DoReMi([0.5, 0.5]),
        DGA([0.5, 0.5], step_size=1.0, ema=0.1, update_every=1),
    ]
    for method in methods:
        assert method.update(np.array([0.1, 0.2])).sum() == 1.0


def test_every_method_says_what_the_issue_asks_for():
    """Cost, absent domain, weight 0, NaN, K = 1, K = 10,000 and a source, in plain words."""
    folder = Path(algorithms.__file__).parent
    for name in algorithms.__all__:
        thing = getattr(algorithms, name)
        if not isinstance(thing, type) or not hasattr(thing, "load_state_dict"):
            continue
        if name == "Algorithm":
            continue
        text = " ".join((thing.__doc__ or "").split())
        for word in ("Signal", "Cost a step", "Weight 0", "NaN", "K = 1", "K = 10,000", "Source:"):
            assert word.lower() in text.lower(), f"{name} says nothing of {word!r}"
        assert "absent" in text.lower(), f"{name} says nothing of absent domains"
    assert all(len(p.read_text().splitlines()) <= 320 for p in folder.glob("*.py"))
