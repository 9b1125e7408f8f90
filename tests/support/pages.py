"""Pages of the documentation: their blocks, headings, anchors and links."""

import re
from collections import Counter
from pathlib import Path

from repository import ROOT

README = ROOT / "README.md"
RUSSIAN_README = ROOT / "docs" / "README.ru.md"

RUN = [
    README,
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "quickstart",
            "handlers",
            "dependencies",
            "security",
            "sessions",
            "channels",
            "catching-up",
            "exactly-once",
            "cache",
            "hooks",
            "testing",
            "serving",
            "command-line",
            "fastapi",
            "limits",
            "protocol",
            "browser",
            "asyncapi",
        )
    ),
]
"""Pages for users, whose programs and dialogues run."""

PRODUCTION = ROOT / "docs" / "production.md"
"""A page with several programs, each in files whose names stand above their blocks."""

RUSSIAN = {
    README: RUSSIAN_README,
    **{page: page.parent / "ru" / page.name for page in [*RUN[1:], PRODUCTION]},
}
"""Pages of which there is a Russian one, and the Russian page."""

ENGLISH = ("tutorial", "life-of-a-message", "clients")
RUN += [ROOT / "docs" / f"{name}.md" for name in ENGLISH]  # of which there is no Russian one

ALL = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(
    r"^[^\n]*`([^`\n]+)`[^`\n]*:\n\n```(?:python|json|nginx|yaml)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_CODE = re.compile(r"`[^`\n]+`")
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each code block, in their order."""
    return _BLOCK.findall(page.read_text("utf-8"))


def files(page: Path) -> dict[str, str]:
    """Return the text of each block that is a file, by the last name in the line above it."""
    return dict(_FILE.findall(page.read_text("utf-8")))


def prose(page: Path) -> str:
    """Return all but the code blocks, in which a comment looks like a heading."""
    return _BLOCK.sub("", page.read_text("utf-8"))


def headings(page: Path) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in _HEADING.findall(prose(page))]


def anchors(page: Path) -> list[str]:
    """Return the anchors that GitHub gives to the headings; equal ones are numbered from the
    second."""
    seen: Counter[str] = Counter()
    found = []
    for _, title in headings(page):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def links(page: Path) -> list[str]:
    """Return the links that lead to files of the project, and to headings."""
    return [link for link in _LINK.findall(prose(page)) if "://" not in link]


def names_in_code(page: Path) -> set[str]:
    return set(_CODE.findall(prose(page)))
