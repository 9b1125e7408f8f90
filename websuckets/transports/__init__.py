"""The ways in which frames come in and go out; each module knows one library below us."""
