"""Configuration of the log by ``--log-level`` and ``--log-config``."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websuckets.cli.run_options import RunOptions
from websuckets.exc import ConfigurationError

__all__ = ["configure_logging"]


def configure_logging(options: RunOptions) -> None:
    """Apply the options to the ``logging`` of this process.

    A configuration is a file for ``logging.config``: JSON or YAML with a dictionary, or INI. Raises
    `ConfigurationError` for a file that cannot be read or applied.
    """
    if options.log_config is not None:
        try:
            with _importing_from(options.app_dir or "."):
                _apply(Path(options.log_config))
        except Exception as error:  # of three libraries, and of handlers
            why = [f"--log-config {options.log_config}", str(error)]
            if error.__cause__ is not None:  # `logging` names the handler, and its cause the fault
                why.append(str(error.__cause__))
            raise ConfigurationError(": ".join(why)) from error
    if options.log_level is not None:
        logging.getLogger("websuckets").setLevel(options.log_level.upper())


@contextmanager
def _importing_from(directory: str) -> Iterator[None]:
    """Return a context that imports modules of the program: they may have handlers of its log.

    Afterwards modules of the program can no longer take the place of others, because a supervisor
    imports nothing else of the program.
    """
    place = str(Path(directory).resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _apply(path: Path) -> None:
    text = path.read_text("utf-8")  # `fileConfig` does not tell that a file is missing
    if path.suffix == ".json":
        _apply_dictionary(json.loads(text))
    elif path.suffix in (".yaml", ".yml"):
        try:
            import yaml  # of the program's own choice
        except ImportError:
            raise TypeError("YAML needs the package PyYAML, which is not installed") from None
        _apply_dictionary(yaml.safe_load(text))
    else:
        logging.config.fileConfig(str(path), disable_existing_loggers=False, encoding="utf-8")


def _apply_dictionary(configuration: Any) -> None:
    if not isinstance(configuration, dict):
        raise TypeError("it does not hold a dictionary")
    # Python's default would silence the loggers that exist already, and so all of ours.
    logging.config.dictConfig({"disable_existing_loggers": False, **configuration})
