"""How long tests wait for what must come.

It is a module of its own, so that programs that tests start do not import all of the harness.
"""

TIMEOUT = 10
"""Seconds; more than any machine needs that does other work beside the tests."""
