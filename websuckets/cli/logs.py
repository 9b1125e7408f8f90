"""Configuration of the log by ``--log-level`` and ``--log-config``."""

import json
import logging
import logging.config
from pathlib import Path

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
            _apply(Path(options.log_config))
        except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"--log-config {options.log_config}: {error}") from error
    if options.log_level is not None:
        logging.getLogger("websuckets").setLevel(options.log_level.upper())


def _apply(path: Path) -> None:
    if path.suffix == ".json":
        logging.config.dictConfig(json.loads(path.read_text()))
    elif path.suffix in (".yaml", ".yml"):
        import yaml  # of the program's own choice

        logging.config.dictConfig(yaml.safe_load(path.read_text()))
    else:
        with path.open() as file:  # `fileConfig` does not tell that a file is missing
            logging.config.fileConfig(file, disable_existing_loggers=False)
