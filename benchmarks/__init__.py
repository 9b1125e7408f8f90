"""The same job for every server, measured side by side; see README.md in this folder."""
