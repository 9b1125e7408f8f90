"""An app: defined, compiled, started, served and stopped."""
