"""``python -m benchmarks``: measure every subject, and tell."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.jobs import BY_HAND, CLAIMS, JOBS, SHORT_LIST
from benchmarks.measure import compare
from benchmarks.report import claims_table, job_table, plain, write_json
from benchmarks.servers import LOAD_CORE, pin
from benchmarks.subjects import SUBJECTS, Options

RESULTS = Path(__file__).parent / "results"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each subject in a round")
    parser.add_argument("--subjects", help=f"some of: {', '.join(SUBJECTS)} (comma-separated)")
    parser.add_argument("--jobs", help=f"some of: {', '.join(JOBS)} (comma-separated)")
    parser.add_argument("--quick", action="store_true", help="few rounds, two jobs: for a look")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(given)


def main() -> None:
    args = arguments()
    pin(LOAD_CORE)
    rounds, seconds = (3, 0.5) if args.quick else (args.rounds, args.seconds)
    jobs = args.jobs.split(",") if args.jobs else ["protected", "plain"] if args.quick else [*JOBS]
    subjects = args.subjects.split(",") if args.subjects else [*SUBJECTS]
    plan = [
        (
            JOBS[job],
            [
                (name, SUBJECTS[name], Options())
                for name in subjects
                if SUBJECTS[name].is_installed
                and (args.subjects or job == "protected" or name in SHORT_LIST)
            ],
        )
        for job in jobs
    ]
    results = compare(plan, rounds, seconds)
    settings = {"rounds": rounds, "seconds": seconds}
    write_json(args.output / "comparison.json", settings, results)
    for job in jobs:
        print(f"\n{job}\n{plain(job_table(results, job, subjects, BY_HAND))}")
    print(f"\n{plain(claims_table(results, CLAIMS))}")


if __name__ == "__main__":
    main()
