"""Measure the same job on every server. ``growth`` and ``guarantees`` measure the cost of
websuckets; ``channels``, the cost of publishing; ``workers``, several processes; ``--against``, the
change since another revision."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks import against, channels, growth, guarantees, plots, workers
from benchmarks.job import Job
from benchmarks.jobs import BY_HAND, CLAIMS, JOBS, SHORT_LIST
from benchmarks.measure import Entry, Results, compare
from benchmarks.report import (
    against_table,
    claims_table,
    delivery_table,
    environment,
    growth_table,
    idle_table,
    job_table,
    markdown,
    memory_table,
    nodes_table,
    plain,
    put_into,
    workers_table,
    write_json,
)
from benchmarks.servers import LOAD_CORE, pin
from benchmarks.subjects import SUBJECTS, Options

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
MEMORY_OF: Final = (
    "websockets/asyncio",
    "dishka/asyncio",
    "websuckets/asyncio",
    "websuckets/uvloop",
    "websuckets/trio",
    "fastapi/sansio",
)

Rows = Sequence[Sequence[str]]
Tables = list[tuple[str, Rows]]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("mode", nargs="?", default="compare", choices=MODES)
    parser.add_argument("--rounds", type=int, help="5 unless told otherwise; against, 15 at least")
    parser.add_argument("--seconds", type=float, help="of each subject in a round; 1")
    parser.add_argument("--subjects", help=f"some of: {','.join(SUBJECTS)}")
    parser.add_argument("--jobs", help=f"some of: {','.join(JOBS)}")
    parser.add_argument("--quick", action="store_true", help="short rounds, two jobs: for a look")
    parser.add_argument("--output", type=Path, help="a folder for the results")
    parser.add_argument("--readme", action="store_true", help="write the tables to README.md, too")
    parser.add_argument("--against", metavar="REV", help="compare with websuckets at a revision")
    parser.add_argument("--bar", type=float, help="fail where the ratio is surely above this one")
    args = parser.parse_args(given)
    if args.against is None:
        args.rounds = args.rounds or (3 if args.quick else 5)
        args.output = args.output or RESULTS
    else:
        args.rounds = args.rounds or against.ROUNDS
        if args.mode != "compare" or args.readme or args.rounds < against.ROUNDS:
            parser.error(f"--against: no mode, no --readme, {against.ROUNDS} rounds or more")
    if args.bar is not None and args.against is None:
        parser.error("--bar goes with --against REV")
    args.seconds = args.seconds or (0.4 if args.quick else 1.0)
    return args


def run_compare(args: argparse.Namespace) -> Tables:
    default = ["protected", "plain"] if args.quick else [*JOBS]
    jobs = args.jobs.split(",") if args.jobs else default
    subjects = args.subjects.split(",") if args.subjects else [*SUBJECTS]
    missing = [name for name in subjects if not SUBJECTS[name].is_installed]
    if missing:
        progress(f"not installed (pip install -e '.[bench]'): {', '.join(missing)}")
    plan = [(JOBS[job], entries(job, subjects, bool(args.subjects))) for job in jobs]
    results = compare(plan, args.rounds, args.seconds, progress)
    write_json(args.output / "compare.json", settings(args), results)
    if can_plot():
        for job in jobs:
            plots.bars(args.output / f"{job}.png", job, results, job, subjects)
    tables: Tables = [("Ratios", claims_table(results, CLAIMS))]
    return tables + [
        (f"Job `{job}`: {describe(JOBS[job])}", table_of(JOBS[job], results, subjects))
        for job in jobs
    ]


def table_of(job: Job, results: Results, subjects: Sequence[str]) -> Rows:
    table = idle_table if job.is_idle else job_table
    return table(results, job.name, subjects, BY_HAND)


def run_against(args: argparse.Namespace) -> bool:
    """Print the comparison of the working tree with a revision; return whether all is within the
    bar."""
    names = args.jobs.split(",") if args.jobs else [*JOBS]
    asked = args.subjects.split(",") if args.subjects else []
    jobs = [(JOBS[job], asked or against.subjects_of(job)) for job in names]
    with against.trees(args.against) as both:
        results = against.measure(both, jobs, args.rounds, args.seconds, progress)
    if args.output is not None:
        write_json(args.output / "against.json", settings(args), results)
    pairs = [(job.name, name) for job, names in jobs for name in names]
    rows, all_held = against_table(results, pairs, args.bar)
    print(f"\nCPU per message, working tree / {args.against}: median of rounds\n{plain(rows)}")
    return all_held


def entries(job: str, subjects: Sequence[str], all_do_it: bool) -> list[Entry]:
    return [
        (name, SUBJECTS[name], Options())
        for name in subjects
        if SUBJECTS[name].is_installed and (all_do_it or job == "protected" or name in SHORT_LIST)
    ]


def describe(job: Job) -> str:
    if job.is_idle:
        return f"{job.connections:,} connections that send nothing"
    size = f"{job.text_size:,} bytes of text"
    return f"{job.event!r}, {size}, depth {job.depth}, {job.connections:,} connections"


def run_guarantees(args: argparse.Namespace) -> Tables:
    plan = guarantees.plan()
    names = [name for name, _, _ in plan[0][1]]
    results = compare(plan, args.rounds, args.seconds, progress)
    write_json(args.output / "guarantees.json", settings(args), results)
    if can_plot():
        plots.bars(args.output / "guarantees.png", "guarantees", results, "guarantees", names)
    table = job_table(results, "guarantees", names, guarantees.EVERYTHING, "x with everything")
    return [("What each guarantee costs", table)]


def run_growth(args: argparse.Namespace) -> Tables:
    growths = growth.curves(args.rounds, args.seconds, progress)
    growths.append(growth.start_seconds(args.rounds))
    progress("memory of idle connections")
    memory = growth.memory_per_connection(
        [name for name in MEMORY_OF if SUBJECTS[name].is_installed]
    )
    content = {
        "environment": environment(),
        "settings": settings(args),
        "growth": [asdict(one) for one in growths],
        "bytes per idle connection": memory,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    (args.output / "growth.json").write_text(text, encoding="utf-8")
    if can_plot():
        plots.all_lines(args.output, growths)
    tables: Tables = [(f"{one.y} by {one.x}", growth_table(one)) for one in growths]
    return [*tables, ("Memory of an idle connection", memory_table(memory, BY_HAND))]


def run_channels(args: argparse.Namespace) -> Tables:
    asked = args.subjects.split(",") if args.subjects else channels.FAN_OUT
    subjects = [name for name in asked if name in channels.FAN_OUT and SUBJECTS[name].is_installed]
    wanted = channels.SUBSCRIBERS[:1] if args.quick else channels.SUBSCRIBERS
    numbers = channels.possible(wanted, len(subjects))
    if len(numbers) < len(wanted):
        progress("not so many files may be open (ulimit -Hn): less is measured")
    results = channels.fan_out(subjects, numbers, args.rounds, args.seconds, progress)
    write_json(args.output / "fan-out.json", settings(args), results)
    tables: Tables = [
        (
            f"One process, {number:,} subscribers",
            delivery_table(results, channels.fan_out_name(number), subjects, BY_HAND),
        )
        for number in numbers
    ]
    nodes = [name for name in subjects if name in channels.BETWEEN_NODES]
    between = channels.between_nodes(nodes, args.rounds, args.seconds, progress)
    if between is None:
        progress("nothing between nodes: that needs redis-server, and '.[bench]'")
        return tables
    write_json(args.output / "between-nodes.json", settings(args), between)
    return [*tables, ("From one node to another", nodes_table(between, channels.NODES, nodes))]


def run_workers(args: argparse.Namespace) -> Tables:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # clients and workers share all cores
    loops = [loop for loop in workers.LOOPS if find_spec(loop) is not None]
    rates = workers.throughput(loops, args.rounds, args.seconds, progress)
    spread = {loop: workers.shares(loop, max(workers.WORKERS), 1000) for loop in loops}
    args.output.mkdir(parents=True, exist_ok=True)
    content = {
        "environment": environment(),
        "settings": settings(args),
        "messages per second": {loop: found.rates for loop, found in rates.items()},
        "shares of 1,000 connections": spread,
    }
    text = json.dumps(content, indent=1) + "\n"
    (args.output / "workers.json").write_text(text, encoding="utf-8")
    return [("Workers on all cores", workers_table(rates, spread))]


def settings(args: argparse.Namespace) -> dict[str, object]:
    return {"rounds": args.rounds, "seconds": args.seconds}


def can_plot() -> bool:
    if find_spec("matplotlib") is None:
        progress("no plots without matplotlib (pip install -e '.[bench]')")
        return False
    return True


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


MODES: Final = {
    "compare": run_compare,
    "guarantees": run_guarantees,
    "growth": run_growth,
    "channels": run_channels,
    "workers": run_workers,
}


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are ended, too
    pin(LOAD_CORE)
    if args.against is not None:
        try:
            sys.exit(0 if run_against(args) else 1)
        except against.NoComparison as error:
            sys.exit(f"--against {error}")
    tables = MODES[args.mode](args)
    for title, rows in tables:
        print(f"\n{title}\n{plain(rows)}")
    if args.readme:
        name = "figures" if args.mode == "compare" else args.mode
        text = "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in tables)
        how = f"`python -m benchmarks {args.mode} --rounds {args.rounds} --seconds {args.seconds}`"
        put_into(HERE / "README.md", name, f"Made by {how}.\n\n{text}")


if __name__ == "__main__":
    main()
