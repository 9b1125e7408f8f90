"""Build the site of the documentation to ``site/``: HTML, the Markdown of each page, ``llms.txt``.

``python .ci/site.py``, with the extra ``docs`` installed. Any warning of the builder is an error.
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
PAGES = ROOT / CONFIG["docs_dir"]
SITE = ROOT / CONFIG["site_dir"]

LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")
"""Target of a link to a file of the repository."""

CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.M | re.S)
"""Code of a page, in which nothing is a link."""

DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.M)
"""Line of a page that the builder replaces by what the docstrings of an object say."""

ITEM = re.compile(r" *(?:[-*+]|\d+\.) ")
"""Beginning of an item of a list."""

LOADED = re.compile(r'<(?:script|img|iframe|link rel="(?!canonical|next|prev))[^>]*"(?:https?:)?//')
"""Element of a page that a browser loads from another host."""


def listed(nav: Any) -> Iterator[tuple[str, str]]:
    """Yield the title and the path of each page of the navigation."""
    for entry in nav:
        for title, target in entry.items():
            if isinstance(target, str):
                yield title, target
            else:
                yield from listed(target)


def lay_out(pages: list[str]) -> list[str]:
    """Copy pages, and all that they link to, to where the builder takes them from.

    They keep their places in the repository, so that every link fits on both; a link to a folder
    becomes one to its README.md. Returns the Markdown files among them.
    """
    shutil.rmtree(PAGES, ignore_errors=True)
    found = list(pages)
    for path in found:  # which becomes longer meanwhile
        source, target = ROOT / path, PAGES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix != ".md":
            shutil.copyfile(source, target)
            continue
        text = source.read_text()
        for link in set(LINK.findall(CODE.sub("", text))):
            linked = source.parent.joinpath(unquote(link)).resolve()
            if linked.is_dir():
                text = text.replace(f"]({link})", f"]({link.rstrip('/')}/README.md)")
                linked = linked / "README.md"
            if not linked.is_file():
                sys.exit(f"{path}: no file {link}")
            found += {linked.relative_to(ROOT).as_posix()} - set(found)
        if lines := list(misread(text)):
            sys.exit("\n".join(f"{path}: {line}" for line in lines))
        target.write_text(text)
    return [path for path in found if path.endswith(".md")]


def misread(text: str) -> Iterator[str]:
    """Yield the lines of a page that the builder reads otherwise than GitHub does."""
    last, fence = "", False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fence = not fence
        indent = len(line) - len(line.lstrip())
        if not fence and line.strip():
            if indent % 4:
                yield f"indented by {indent} spaces, not by 4: {line}"
            if ITEM.match(line) and last.strip() and not ITEM.match(last) and last[0] != " ":
                yield f"no blank line before the list: {line}"
        last = line


def stub(name: str) -> str:
    """Return the public part of an object as Python: signatures and docstrings."""
    module, _, object_name = name.rpartition(".")
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(source.read_text()).body:
        match node:
            case ast.ImportFrom(module=origin, names=names):
                if any((alias.asname or alias.name) == object_name for alias in names):
                    if not str(origin).startswith("websuckets"):
                        return ast.unparse(node)
                    return stub(f"{origin}.{object_name}")
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.name == object_name:
                    return ast.unparse(without_code(node))
            case (
                ast.Assign(targets=[ast.Name(id=target)])
                | ast.AnnAssign(target=ast.Name(id=target))
            ):
                if target == object_name:
                    return ast.unparse(node)
    raise LookupError(name)


def without_code(node: ast.stmt) -> ast.stmt:
    """Return a definition without the bodies of functions and without private attributes."""
    if isinstance(node, ast.ClassDef):
        node.body = [without_code(part) for part in node.body if is_public(part)] or [ELLIPSIS]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        node.body = [*node.body[:1], ELLIPSIS] if ast.get_docstring(node) else [ELLIPSIS]
    return node


ELLIPSIS = ast.Expr(ast.Constant(...))


def is_public(part: ast.stmt) -> bool:
    """Return whether a part of a class is documented: no private name, no special method."""
    match part:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            is_setter = any(ast.unparse(by).endswith(".setter") for by in part.decorator_list)
            return name == "__init__" or not (name.startswith("_") or is_setter)
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return not name.startswith("_")
        case ast.Expr(ast.Constant(str())):
            return True
    return False


def markdown(page: str) -> str:
    """Return a page as Markdown for those who read no HTML."""
    text = (PAGES / page).read_text()
    return DIRECTIVE.sub(lambda found: f"```python\n{stub(found[1])}\n```", text)


def summary(page: str) -> str:
    """Return the first sentence of a page, without links and marks."""
    paragraphs = (ROOT / page).read_text().split("\n\n")
    first = next((part for part in paragraphs if part[0].isalpha() or part[0] in "`["), "")
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(first.split()))
    return re.split(r"(?<=[.:]) (?=[A-Z])", text.replace("`", ""), maxsplit=1)[0].rstrip(":")


def main() -> None:
    nav = dict((path, title) for title, path in listed(CONFIG["nav"]))
    pages = lay_out(list(nav))
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    if lost := written - set(pages):
        sys.exit(f"no page leads to {', '.join(sorted(lost))}")

    shutil.rmtree(SITE, ignore_errors=True)
    command = [f"{Path(sys.executable).parent}/zensical", "build", "--clean", "--strict"]
    build = subprocess.run(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(build.stdout, end="")
    if build.returncode or "warning" in build.stdout.lower():
        sys.exit("the builder is not content")

    for html in SITE.rglob("*.html"):
        if loaded := LOADED.search(html.read_text()):
            sys.exit(f"{html.relative_to(SITE)} loads from elsewhere: {loaded[0]}")
    for page in pages:
        (SITE / page).write_text(markdown(page))
    index = [f"# {CONFIG['site_name']}", "", f"> {CONFIG['site_description']}", ""]
    index += [f"- [{title}]({path}): {summary(path)}" for path, title in nav.items()]
    (SITE / "llms.txt").write_text("\n".join(index) + "\n")
    print(f"{len(pages)} pages in {SITE.relative_to(ROOT)}/")


if __name__ == "__main__":
    main()
