"""Errors of a program as the command line tells them: on standard error, with exit status 1."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import typer
from dishka.exception_base import DishkaError

from websuckets.cli.loading import LoadError
from websuckets.exc import ConfigurationError

__all__ = ["failures_told", "inspecting"]


@contextmanager
def failures_told() -> Iterator[None]:
    """Return a context that tells why an app cannot start, and ends this process with status 1.

    A `LoadError`, a `ConfigurationError` and an error of dishka are reports that name places
    themselves: they are told without a traceback.
    """
    try:
        yield
    except (LoadError, ConfigurationError, DishkaError) as error:
        typer.echo("\n".join([str(error), *getattr(error, "__notes__", ())]), err=True)
        raise typer.Exit(1) from None


@contextmanager
def inspecting() -> Iterator[None]:
    """Return a context like `failures_told`, in which the program prints to standard error.

    Standard output is for what the command line itself prints, which others may parse.
    """
    with failures_told(), redirect_stdout(sys.stderr):
        yield
