"""Results as pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth import Growth
from benchmarks.measure import Results

__all__ = ["bars", "lines"]


def bars(path: Path, title: str, results: Results, job: str, subjects: Sequence[str]) -> None:
    """Plot the processor time per message, the cheapest on top; whiskers reach to the extremes."""
    found = [(name, spread) for name in subjects if (spread := results.spread(job, name, "cpu_us"))]
    if not found:
        return
    found.sort(key=lambda entry: entry[1].median, reverse=True)
    names = [name for name, _ in found]
    medians = [spread.median for _, spread in found]
    whiskers = [
        [spread.median - spread.least for _, spread in found],
        [spread.most - spread.median for _, spread in found],
    ]
    colours = [
        "tab:orange" if "websuckets" in name or "with" in name else "tab:gray" for name in names
    ]
    figure, axes = _figure(0.35 * len(names) + 1.4)
    axes.barh(names, medians, xerr=whiskers, color=colours, error_kw={"elinewidth": 0.8})
    axes.set_xlabel("microseconds of the server's processor per message")
    axes.set_title(title)
    _save(figure, path)


def lines(path: Path, growth: Growth) -> None:
    figure, axes = _figure(3.6)
    for name, points in growth.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set_xscale("log", base=2 if growth.name == "depth" else 10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(growth.x)
    axes.set_ylabel(growth.y)
    axes.legend()
    _save(figure, path)


def _figure(height: float) -> tuple[Any, Any]:
    # Without pyplot, which would look for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def all_lines(folder: Path, growths: Iterable[Growth]) -> None:
    for growth in growths:
        lines(folder / f"growth-{growth.name}.png", growth)
