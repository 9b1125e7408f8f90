"""Benchmarks that let every server do the same job, side by side; see README.md in this folder."""
