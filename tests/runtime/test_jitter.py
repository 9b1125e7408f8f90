"""Random pauses: by a generator that a program cannot seed by accident."""

import random
import re
from pathlib import Path

import websuckets
from websuckets.runtime.jitter import uniform


def test_pauses_differ_in_workers_that_seed_the_module_random_alike() -> None:
    pauses = []
    for _ in range(2):
        random.seed(0)
        pauses.append([uniform(1, 2) for _ in range(10)])
    assert pauses[0] != pauses[1]
    assert all(1 <= pause <= 2 for worker in pauses for pause in worker)


def test_a_pause_leaves_the_module_random_as_it_was() -> None:
    before = random.getstate()
    uniform(0, 1)
    assert random.getstate() == before


def test_no_other_module_of_the_package_uses_random() -> None:
    package = Path(websuckets.__file__).parent
    users = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import random|from random )", path.read_text(), re.MULTILINE)
    ]
    assert users == ["runtime/jitter.py"]
