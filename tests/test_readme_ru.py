"""The README in Russian has the content of the English one, and no link in either is broken."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH = ROOT / "README.md"
RUSSIAN = ROOT / "docs" / "README.ru.md"

ONLY_IN_RUSSIAN = (2, "Если вы уже писали на websuckets")
"""A section for users of the first documentation, which is in Russian."""

BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(readme: Path) -> str:
    """Return all but the code blocks, in which a comment looks like a heading."""
    return BLOCK.sub("", readme.read_text("utf-8"))


def headings(readme: Path) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in HEADING.findall(prose(readme))]


def anchors(readme: Path) -> list[str]:
    """Return the anchors that GitHub gives to the headings; equal ones are numbered from the
    second."""
    seen: Counter[str] = Counter()
    found = []
    for _, title in headings(readme):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def test_the_blocks_are_the_same() -> None:
    """The programs, dialogues and commands that run in English are those of the Russian README."""
    english = BLOCK.findall(ENGLISH.read_text("utf-8"))
    assert len(english) >= 20
    assert BLOCK.findall(RUSSIAN.read_text("utf-8")) == english


def test_the_sections_are_the_same() -> None:
    """Levels and order are the same, but for the section `ONLY_IN_RUSSIAN` before the last."""
    english, russian = headings(ENGLISH), headings(RUSSIAN)
    assert russian.pop(-2) == ONLY_IN_RUSSIAN
    assert [level for level, _ in russian] == [level for level, _ in english]


def test_no_name_is_missing() -> None:
    """Each name in code marks in the English text is in the Russian text, too."""
    english, russian = (set(CODE.findall(prose(readme))) for readme in (ENGLISH, RUSSIAN))
    assert english - russian == set()


@pytest.mark.parametrize("readme", [ENGLISH, RUSSIAN], ids=["english", "russian"])
def test_links_lead_somewhere(readme: Path) -> None:
    """Files are found relative to the README, anchors among the headings of the file."""
    links = [link for link in LINK.findall(prose(readme)) if not link.startswith("https://")]
    assert len(links) >= 3
    for link in links:
        path, _, anchor = link.partition("#")
        target = readme.parent / path if path else readme
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
