"""Serve one subject: ``python -m benchmarks.subjects NAME PORT CORE OPTIONS``."""

import os
import sys
from contextlib import suppress
from importlib import import_module

from benchmarks.subjects import SUBJECTS, Options


def main(name: str, port: str, core: str, options: str) -> None:
    with suppress(OSError):  # there is no such core
        os.sched_setaffinity(0, {int(core)})
    subject = SUBJECTS[name]
    serve = import_module(subject.module).serve
    serve(int(port), subject.variant, Options.from_json(options))


if __name__ == "__main__":
    main(*sys.argv[1:])
