"""Command line of websuckets."""
