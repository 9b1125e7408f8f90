"""Build the documentation site: ``python docs/site.py FOLDER``, with the extra ``docs``.

The pages of this folder link to files of the repository, and the first page is the README, so the
site is built from copies whose links stay within the site; links to other files become plain text.
The result has each page as HTML and, beside it, as Markdown, and ``llms.txt``, a list of all pages
for programs that read: https://llmstxt.org. A warning of the builder ends the build.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

MOVED = {
    ROOT / "README.md": "index.md",
    DOCS / "README.ru.md": "ru/index.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "SECURITY.md": "security-policy.md",
}
"""Files with another place in the site than in the repository."""

LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def sources() -> dict[Path, str]:
    """Return the files that are pages, and the place of each in the site."""
    pages = {page: str(page.relative_to(DOCS)) for page in sorted(DOCS.rglob("*.md"))}
    return pages | MOVED


def page(source: Path, places: dict[Path, str]) -> str:
    """Return the Markdown of a page, with links that lead to pages of the site."""
    here = Path(places[source]).parent

    def moved(link: re.Match[str]) -> str:
        text, target = link.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        place = places.get((source.parent / path).resolve())
        if place is None:
            return text
        return f"[{text}]({_way(here, place)}{'#' + anchor if anchor else ''})"

    return LINK.sub(moved, source.read_text("utf-8"))


def _way(here: Path, place: str) -> str:
    """Return the relative path from a folder of the site to a page."""
    return "../" * len(here.parts) + place


def reference(module: str) -> str:
    return f"# `{module}`\n\n::: {module}\n"


def title(markdown: str) -> str:
    return markdown.partition("\n")[0].removeprefix("# ")


def build(target: Path) -> None:
    """Build the site into a folder, which is replaced."""
    with (DOCS / "zensical.toml").open("rb") as file:
        navigation = tomllib.load(file)["project"]["nav"]
    listed = [place for part in navigation for places in part.values() for place in places]
    texts = {place: page(source, sources()) for source, place in sources().items()}
    for place in listed:
        if place.startswith("reference/"):
            texts[place] = reference(Path(place).stem)
    if missing := sorted(set(texts) ^ set(listed)):
        raise SystemExit(f"pages and navigation differ: {missing}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copy(DOCS / "zensical.toml", work)
        shutil.copytree(ROOT / "websuckets", work / "websuckets")
        for place, text in texts.items():
            (work / "pages" / place).parent.mkdir(parents=True, exist_ok=True)
            (work / "pages" / place).write_text(text, "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
            cwd=work,
            capture_output=True,
            text=True,
        )
        print(done.stdout + done.stderr)
        if done.returncode or "warning" in (done.stdout + done.stderr).lower():
            raise SystemExit("the site was not built without a warning")
        for place in listed:
            shutil.copy(work / "pages" / place, work / "site" / place)
        (work / "site" / "llms.txt").write_text(
            "# websuckets\n\n> Real-time applications over WebSocket.\n\n## Pages\n\n"
            + "".join(f"- [{title(texts[place])}]({place})\n" for place in listed),
            "utf-8",
        )
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(work / "site", target)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
