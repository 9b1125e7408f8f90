"""One connection: who may connect, what it does, and how it ends."""
