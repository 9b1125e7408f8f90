"""Timeout of tests, for what must come.

It has a module of its own, so that programs that tests start do not import all of the harness.
"""

TIMEOUT = 20
"""Seconds, more than a machine needs that does other work beside the tests."""
