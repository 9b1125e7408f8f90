"""Connections: admission, messages in their order, limits against abuse, and the end."""
