"""Texts of the document of an app: JSON and YAML."""

import json
from typing import Any

import pytest
import yaml
from awkward_registry import app as awkward

from websuckets import WebSuckets
from websuckets.asyncapi.texts import as_json, as_yaml, written_by

TEXTS = [
    "",
    "1e3",
    "0o7",
    "12:30",
    "-",
    ".5",
    "no",
    "null",
    "~",
    "<<",
    "a: b",
    "a #b",
    "  blank",
    "two\nlines",
    "\n",
    "lines\n\n  indented\n",
    "tab\t",
    "\u2028\x07\x85",
    "😀 и",
    "word " * 100,
    "word\n" * 100,
]


@pytest.mark.parametrize("text", TEXTS)
def test_each_text_is_read_as_it_was_written(text: str) -> None:
    document = {"a": text, text: [{"b": text}, None, 2**53, 1.5, True, {}]}
    assert yaml.safe_load(as_yaml(document)) == document
    assert json.loads(as_json(document)) == document


@pytest.mark.parametrize("text", ["1e3", "0o7", "1_000", "12:30", "-.5", "+1"])
def test_texts_that_look_like_numbers_are_quoted(text: str) -> None:
    """Expect quotes, also where YAML 1.1, which PyYAML reads, sees no number and YAML 1.2 does."""
    assert as_yaml({"a": text}) == f'a: "{text}"\n'


@pytest.mark.skipif(not hasattr(yaml, "CSafeDumper"), reason="this PyYAML has one dumper")
@pytest.mark.parametrize(
    "document", [awkward.asyncapi(), WebSuckets().asyncapi(), *({"a": text} for text in TEXTS)]
)
def test_both_dumpers_of_pyyaml_write_one_text(document: dict[str, Any]) -> None:
    """Expect that a file that was written on one machine is up to date on another one."""
    text = written_by(yaml.SafeDumper, document)
    assert text == written_by(yaml.CSafeDumper, document)
    assert yaml.safe_load(text) == document


def test_equal_parts_are_written_where_they_stand() -> None:
    part = {"type": "string"}
    assert as_yaml({"a": part, "b": part}) == "a:\n  type: string\nb:\n  type: string\n"
