"""Signatures and type hints of functions that a program gives."""
