"""Event loops, time, tasks and request scopes, on which everything else runs."""
