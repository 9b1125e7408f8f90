"""Delivery of messages that no command asked for, and of revocations."""
