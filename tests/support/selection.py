"""Selection of the tests that run when nobody says which: those that find most in little time.

Many tests have dozens of cases, one for each combination of event loop, transport, database and
input; all cases together keep two cores busy for more than five minutes. When the whole suite is
run, `CASES` of each test are taken, the same ones each time, and tests marked ``slow`` are left
out. Everything runs with ``--complete``, and wherever files or tests are named.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final
from zlib import crc32

import pytest

__all__ = ["KEY", "add_option", "left_out", "takes_a_part"]

CASES: Final = 2
"""Cases of a test that run, at most."""

KEY: Final = "takes_a_part"
"""Key of ``workerinput`` that tells a worker whether a part of the tests runs."""


def add_option(parser: pytest.Parser) -> None:
    """Add the option that runs everything."""
    parser.addoption(
        "--complete", action="store_true", help="run all cases of all tests but the heavy ones"
    )


def takes_a_part(config: pytest.Config) -> bool:
    """Tell whether a part of the tests runs.

    A worker of pytest-xdist is told by ``workerinput``, as it gets all arguments as if named.
    """
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is not None:
        return bool(given[KEY])
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return not named and not config.getoption("complete")


def left_out(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """Return the tests that are left out where a part of them runs."""
    tests: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    out: set[pytest.Item] = set()
    for cases in tests.values():
        cases.sort(key=lambda item: crc32(item.nodeid.encode()))  # not always the first parameters
        out.update(cases[CASES:])
        out.update(item for item in cases if item.get_closest_marker("slow"))
    return out
