"""Generated clients as modules, and the documents that they are generated from."""

import json
import sys
from itertools import count
from types import ModuleType
from typing import Any

from harness import EXAMPLES, load

from websuckets import WebSuckets
from websuckets.client_generation import python_client, read_document

_numbers = count()


def source_of(app: WebSuckets) -> str:
    """Return the Python client of an app."""
    return str(python_client(read_document(app.asyncapi())))


def module_of(source: str) -> Any:
    """Return a new module with this source."""
    module = ModuleType(f"generated_client_{next(_numbers)}")
    sys.modules[module.__name__] = module  # where pydantic looks for the names in annotations
    exec(compile(source, f"{module.__name__}.py", "exec"), vars(module))
    return module


def read_again(document: Any) -> Any:
    """Return a document as a file has it."""
    return json.loads(json.dumps(document))


def names_of_examples() -> list[str]:
    """Return the names of the examples that are programs, without ``.py``."""
    files = sorted(EXAMPLES.glob("*.py"))
    return [file.stem for file in files if not file.stem.startswith("test_")]


def app_of_example(name: str) -> WebSuckets:
    """Return the last app of an example."""
    return [app for app in vars(load(name)).values() if isinstance(app, WebSuckets)][-1]
