"""Texts of an AsyncAPI document: JSON, and YAML, which needs the extra ``yaml``."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from websuckets.exc import ConfigurationError

__all__ = ["as_json", "as_yaml", "check_yaml", "written_by"]

_QUOTED: Final = re.compile(r"^[-+.\d]|[\U00010000-\U0010ffff]")
"""Pattern in texts that are quoted.

One version of YAML reads them as a number, and another as a text; or the dumpers of PyYAML would
write their characters in different ways.
"""


def as_json(document: Mapping[str, Any]) -> str:
    """Return the document as JSON, indented, with a line break at the end."""
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n"


def as_yaml(document: Mapping[str, Any]) -> str:
    """Return the document as YAML. Raise `ConfigurationError` where PyYAML is missing."""
    check_yaml()
    import yaml

    # The emitter in C takes a tenth of the time; some builds of PyYAML are without it.
    return written_by(getattr(yaml, "CSafeDumper", yaml.SafeDumper), document)


def written_by(dumper: Any, document: Mapping[str, Any]) -> str:
    """Return the document as a dumper of PyYAML writes it; both of its dumpers write one text."""
    import yaml

    def write_text(dumper: Any, data: str) -> Any:
        style = '"' if _QUOTED.search(data) else "|" if "\n" in data else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    # Each part is written where it stands, also if others are equal to it: no aliases.
    ours: Any = type("Dumper", (dumper,), {"ignore_aliases": lambda *_: True})
    ours.add_representer(str, write_text)
    text: str = yaml.dump(
        document, Dumper=ours, sort_keys=False, allow_unicode=True, width=UNFOLDED
    )
    return text


UNFOLDED: Final = 2**31 - 1
"""Length of lines; the dumpers of PyYAML would fold lines in ways of their own."""


def check_yaml() -> None:
    """Raise `ConfigurationError` where PyYAML is missing."""
    try:
        import yaml  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigurationError(_NO_YAML) from None


_NO_YAML: Final = (
    'YAML needs PyYAML: install websuckets with its extra "yaml", from a checkout by: '
    'pip install ".[yaml]"; JSON is there without it'
)
