"""Subscriptions of channels, and what waits to be sent to each connection."""
