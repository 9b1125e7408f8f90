"""Chaos: two nodes, their Redis and PostgreSQL, 50 clients, faults of all kinds, and an oracle.

``python tests/chaos.py --seed 1 --minutes 2`` tells each fault, and in the end what was found; its
exit status is 1 if a promise was broken. A seed has one schedule of faults, so a seed that fails is
run again; how clients, nodes and faults interleave differs from run to run.

With ``--log sql`` (the default) replies and events are in PostgreSQL, and Redis, which loses all
its data when it is killed, is the broker alone. With ``--log redis`` they are in Redis, with an
append-only file. Clients are those of ``websuckets.client`` on asyncio; with ``--client`` they are
those on trio, those of the npm package in Node, or those of tests/support/chaos_client.py, of which
each frame that they get is judged. Nothing is mocked: processes are killed and stopped by signals,
and all links go through proxies. See tests/support/chaos_run.py, chaos_clients.py for the programs
of the clients, and chaos_oracle.py for the promises that are judged.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent / "support"))

from chaos_clients import KINDS
from chaos_oracle import Verdict, judge
from chaos_run import ChaosRun
from chaos_servers import errors_in
from repository import ROOT
from typescript_package import built_in

PACKAGE_FOLDER = ROOT / ".pytest_cache" / "d" / "typescript_package"
"""Folder in which tests keep the npm package, too."""

COUNTED = (
    "commands",
    "acknowledged",
    "rolled back",
    "resent",
    "replayed",
    "connections",
    "recovered",
    "reloaded",
    "gaps told",
    "events",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="seed of the schedule of faults")
    parser.add_argument("--minutes", type=float, default=1, help="length of the faults")
    parser.add_argument("--log", choices=["sql", "redis"], default="sql", help="log and replies")
    parser.add_argument("--keep", type=Path, help="directory for the logs of the nodes")
    parser.add_argument(
        "--silent-databases",
        action="store_true",
        help="let connections to PostgreSQL fall silent for good, too",
    )
    parser.add_argument(
        "--client", choices=KINDS, default="python", help="kind of the clients, python by default"
    )
    parser.add_argument(
        "--package",
        type=Path,
        help="folder of the npm package, built, for clients in TypeScript; built if it is missing",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    package = options.package
    if options.client == "typescript" and package is None:
        package = built_in(PACKAGE_FOLDER).folder
    began = time.monotonic()
    with TemporaryDirectory(prefix="chaos-") as name:
        directory = Path(name)
        run = ChaosRun(
            options.seed,
            options.minutes * 60,
            options.log,
            directory,
            tell,
            client=options.client,
            package=package,
            silent_databases=options.silent_databases,
        )
        try:
            asyncio.run(run.run())
        finally:
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                for log in directory.glob("*.log"):
                    shutil.copy(log, options.keep / log.name)
        verdict = judge(run.histories)
        summarise(run, verdict, time.monotonic() - began)
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    print(row(options.client, options.log, options.seed, options.minutes, run.counts, verdict))
    return 1 if verdict.violations else 0


def tell(line: str) -> None:
    print(line, flush=True)


def summarise(run: ChaosRun, verdict: Verdict, seconds: float) -> None:
    print(f"\n{seconds:.0f} seconds in all")
    for name in COUNTED:
        print(f"{run.counts[name]:8d}  {name}")
    for name in sorted(run.counts.keys() - set(COUNTED)):
        print(f"{run.counts[name]:8d}  {name}")
    print(f"{len(run.histories.effects):8d}  effects")
    print(f"{verdict.in_window:8d}  commands that took effect twice in the documented window")
    print(
        f"{verdict.unknown:8d}  commands that took effect twice as the answer to a commit was lost"
    )
    print(f"{verdict.unlogged:8d}  effects whose event was never appended")
    for path in sorted(run.directory.glob("*.log")):
        with path.open(errors="replace") as log:
            for text, number in errors_in(log).items():
                print(f"{number:8d}  in {path.name}: {text}")
    for kind, number in Counter(violation.kind for violation in verdict.violations).items():
        print(f"{number:8d}  VIOLATIONS: {kind}")
        for violation in [each for each in verdict.violations if each.kind == kind][:10]:
            print(f"          {violation.text}")
    print(f"{len(verdict.violations):8d}  violations\n")


HEAD = [
    *("client", "log", "seed", "minutes", "faults", *COUNTED),
    *("twice: node died", "twice: commit unknown", "violations"),
]
"""Columns of `row`."""


def row(
    client: str, log: str, seed: int, minutes: float, counts: Counter[str], verdict: Verdict
) -> str:
    """Return a row of the tables in docs/reliability.md.

    These leave out columns of what clients of a kind do not see, which are 0 here.
    """
    faults = sum(number for name, number in counts.items() if name.startswith("fault: "))
    cells: list[object] = [client, log, seed, f"{minutes:g}", faults]
    cells += [f"{counts[name]:,}" for name in COUNTED]
    cells += [verdict.in_window, verdict.unknown, len(verdict.violations)]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
