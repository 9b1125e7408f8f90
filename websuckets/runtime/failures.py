"""Classification of errors: a failure of the called code, or the end of the calling task."""

from typing import Final

import anyio

__all__ = ["ENDS_THE_PROGRAM", "ends_the_program", "is_failure"]

ENDS_THE_PROGRAM: Final = (KeyboardInterrupt, SystemExit)


def is_failure(error: BaseException) -> bool:
    """Tell whether an error is a failure, an `Exception` or a `BaseException` of the program's own.

    Not a failure is an end: a cancellation, ``GeneratorExit``, ``KeyboardInterrupt`` or
    ``SystemExit``, alone or in a group.
    """
    if isinstance(error, Exception):
        return True
    ends = (*ENDS_THE_PROGRAM, GeneratorExit, anyio.get_cancelled_exc_class())
    return _part_of(error, ends) is None


def ends_the_program(error: BaseException) -> bool:
    """Tell whether the error is ``KeyboardInterrupt`` or ``SystemExit``, or a group with one."""
    return _part_of(error, ENDS_THE_PROGRAM) is not None


def _part_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    return BaseExceptionGroup("", [error]).split(kinds)[0]
