"""Texts of an AsyncAPI document: JSON, and YAML, which needs the extra ``yaml``."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from websuckets.exc import ConfigurationError

__all__ = ["as_json", "as_yaml", "check_yaml"]

_QUOTED: Final = re.compile(r"[-+.\d]")
"""Beginning of texts that one version of YAML reads as a number, and another as a text."""


def as_json(document: Mapping[str, Any]) -> str:
    """Return the document as JSON, indented, with a line break at the end."""
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n"


def as_yaml(document: Mapping[str, Any]) -> str:
    """Return the document as YAML. Raise `ConfigurationError` where PyYAML is missing."""
    check_yaml()
    import yaml

    def write_text(dumper: Any, data: str) -> Any:
        style = '"' if _QUOTED.match(data) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    # Each part is written where it stands, also if others are equal to it: no aliases.
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    dumper.add_representer(str, write_text)
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


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
