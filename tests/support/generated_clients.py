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


def apps_of_examples() -> dict[str, WebSuckets]:
    """Return the last app of each example, by the name of its file."""
    found = {}
    for file in sorted(EXAMPLES.glob("*.py")):
        if not file.stem.startswith("test_"):
            apps = [app for app in vars(load(file.stem)).values() if isinstance(app, WebSuckets)]
            found[file.stem] = apps[-1]
    return found
