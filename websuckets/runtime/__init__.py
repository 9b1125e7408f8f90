"""Event loops, time, tasks and request scopes: what everything else runs on."""
