"""Results as a table to read, as JSON, and as text for README.md."""

import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.against import NEW, OLD, interval_of_median
from benchmarks.growth import Growth
from benchmarks.jobs import Claim
from benchmarks.measure import Results, Spread
from benchmarks.workers import Rates

__all__ = [
    "against_table",
    "claims_table",
    "delivery_table",
    "environment",
    "growth_table",
    "idle_table",
    "job_table",
    "markdown",
    "memory_table",
    "nodes_table",
    "plain",
    "put_into",
    "workers_table",
    "write_json",
]

HEADINGS: Final = (
    "subject",
    "CPU us/message",
    "messages/s",
    "p50 us",
    "p99 us",
    "p99.9 us",
)
PACKAGES: Final = (
    "websuckets websockets dishka pydantic pydantic_core anyio trio uvloop uvicorn wsproto granian "
    "fastapi starlette litestar python-socketio chanx fast-channels picows coredis redis"
).split()

Rows = Sequence[Sequence[str]]


def job_table(
    results: Results, job: str, subjects: Iterable[str], base: str, ratio_to: str = "x by hand"
) -> Rows:
    """Return a row for each subject that has figures, the cheapest first."""
    rows: list[tuple[float, list[str]]] = []
    for subject in subjects:
        cpu = results.spread(job, subject, "cpu_us")
        if cpu is None:
            continue
        ratio = results.ratio((job, subject), (job, base))
        row = [subject, spread_text(cpu, 1), spread_text(ratio, 2) if ratio else "-"]
        for figure in ("per_second", "p50_us", "p99_us", "p999_us"):
            found = results.spread(job, subject, figure)
            row.append(f"{found.median:,.0f}" if found else "-")
        rows.append((ratio.median if ratio else cpu.median, row))
    headings = [*HEADINGS[:2], ratio_to, *HEADINGS[2:]]
    return [headings, *(row for _, row in sorted(rows, key=lambda row: row[0]))]


def against_table(
    results: Results, pairs: Iterable[tuple[str, str]], bar: float | None
) -> tuple[Rows, bool]:
    """Return a row for each (job, subject), and whether all of them are within the bar.

    A row is within the bar if the interval of its ratio begins at the bar or below; a failed one is
    not.
    """
    rows = [["job", "subject", "new/old", "interval", "confidence", "rounds", "held"]]
    all_held = True
    for job, subject in pairs:
        ratios = results.ratios((job, f"{NEW} {subject}"), (job, f"{OLD} {subject}"))
        if not ratios:
            rows.append([job, subject, "-", "failed", "-", "0", "no"])
            all_held = False
            continue
        found = interval_of_median(ratios)
        is_held = bar is None or found.low <= bar
        all_held = all_held and is_held
        interval = f"{found.low:.3f}-{found.high:.3f}"
        confidence = f"{found.confidence * 100:.1f} %"
        held = "" if bar is None else "yes" if is_held else "no"
        median = f"{found.median:.3f}"
        rows.append([job, subject, median, interval, confidence, str(len(ratios)), held])
    return rows, all_held


def idle_table(results: Results, job: str, subjects: Iterable[str], base: str) -> Rows:
    """Return what idle connections cost: a row for each subject that has figures."""
    rows = [["subject", "CPU ms/s for 1,000", "% of a core", "x by hand"]]
    for subject in subjects:
        cpu = results.spread(job, subject, "cpu_us")
        if cpu is None:
            continue
        ratio = results.ratio((job, subject), (job, base))
        times = spread_text(ratio, 2) if ratio and math.isfinite(ratio.most) else "-"
        rows.append([subject, spread_text(cpu, 2), f"{cpu.median / 10:.2f}", times])
    return rows


def delivery_table(results: Results, job: str, subjects: Iterable[str], base: str) -> Rows:
    """Return the cost of publishing: a row for each subject that has figures."""
    rows = [["subject", "CPU us/delivery", "x by hand", "deliveries/s"]]
    for subject in subjects:
        cpu = results.spread(job, subject, "cpu_us")
        per_second = results.spread(job, subject, "per_second")
        if cpu is None or per_second is None:
            continue
        ratio = results.ratio((job, subject), (job, base))
        times = spread_text(ratio, 2) if ratio else "-"
        rows.append([subject, spread_text(cpu, 2), times, spread_text(per_second, 0)])
    return rows


def nodes_table(results: Results, job: str, subjects: Iterable[str]) -> Rows:
    """Return the latency of publishing: a row for each subject that has figures."""
    rows = [["subject", "p50 us", "p99 us"]]
    for subject in subjects:
        found = [results.spread(job, subject, figure) for figure in ("p50_us", "p99_us")]
        times = [spread_text(spread, 0) for spread in found if spread is not None]
        if times:
            rows.append([subject, *times])
    return rows


def workers_table(rates: Mapping[str, Rates], spread: Mapping[str, Sequence[float]]) -> Rows:
    """Return a row for each event loop: messages per second, and shares of the connections."""
    numbers = sorted(next(iter(rates.values())).rates)
    heads = [f"messages/s, workers: {number}" for number in numbers]
    rows = [["event loop", *heads, "gain", "shares of 1,000 connections"]]
    for loop, found in rates.items():
        rounds = [found.rates[number] for number in numbers]
        texts = [f"{median(one):,.0f} ({min(one):,.0f}-{max(one):,.0f})" for one in rounds]
        shares = ", ".join(f"{share:.0%}" for share in spread[loop])
        rows.append([loop, *texts, f"{found.gain:.2f}", shares])
    return rows


def claims_table(results: Results, claims: Iterable[Claim]) -> Rows:
    """Return a row for each claim that was measured.

    A claim is held unless the whole interval of its ratio lies above what was asked for.
    """
    rows = [("what", "ratio", "interval", "asked for", "held")]
    for claim in claims:
        if ratios := results.ratios(claim.one, claim.other, claim.figure):
            found = interval_of_median(ratios)
            asked = "" if claim.bound is None else f"{claim.bound:.2f} at most"
            held = "" if claim.bound is None else "yes" if found.low <= claim.bound else "no"
            interval = f"{found.low:.2f}-{found.high:.2f}"
            rows.append((claim.what, f"{found.median:.2f}", interval, asked, held))
    return rows


def growth_table(growth: Growth) -> Rows:
    """Return a row for each subject, with a column for each point."""
    xs = sorted({x for points in growth.lines.values() for x, _ in points})
    rows = [["", *(f"{x:,.0f}" for x in xs)]]
    for name, points in growth.lines.items():
        found = dict(points)
        rows.append([name, *(f"{found[x]:,.2f}" if x in found else "-" for x in xs)])
    return rows


def memory_table(memory: dict[str, float], base: str) -> Rows:
    rows = [["subject", "KiB", "more than by hand"]]
    for name, size in memory.items():
        more = f"{(size - memory[base]) / 1024:+.1f}" if base in memory else "-"
        rows.append([name, f"{size / 1024:.1f}", more])
    return rows


def spread_text(spread: Spread, digits: int) -> str:
    median, least, most = (
        f"{value:,.{digits}f}" for value in (spread.median, spread.least, spread.most)
    )
    return f"{median} ({least}-{most})"


def plain(rows: Rows) -> str:
    """Format a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(rows: Rows) -> str:
    heading, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([heading, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *rest])


def put_into(readme: Path, name: str, text: str) -> None:
    """Replace the text between the marks of this name."""
    old = readme.read_text(encoding="utf-8")
    marks = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
    new, count = re.subn(marks, lambda m: f"{m[1]}\n{text.strip()}\n\n{m[2]}", old, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{readme} has no place for {name}")
    readme.write_text(new, encoding="utf-8")


def environment() -> dict[str, Any]:
    """Return the versions and the machine of the measurement."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write_json(path: Path, settings: dict[str, Any], results: Results) -> None:
    """Write every figure of every round, and the medians."""
    names = sorted({key for figures in results.rounds for key in figures})
    entries = [
        {
            "job": job,
            "subject": subject,
            "median": {
                figure: spread.median
                for figure in ("cpu_us", "per_second", "p50_us", "p99_us", "p999_us")
                if (spread := results.spread(job, subject, figure))
            },
            "rounds": [
                asdict(figures[job, subject]) if (job, subject) in figures else None
                for figures in results.rounds
            ],
        }
        for job, subject in names
    ]
    failures = [{"job": j, "subject": s, "why": why} for (j, s), why in results.failures.items()]
    content = {
        "environment": environment(),
        "settings": settings,
        "results": entries,
        "failures": failures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
