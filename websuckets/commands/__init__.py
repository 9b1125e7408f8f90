"""Commands and hooks: declared, read, resolved and answered."""
