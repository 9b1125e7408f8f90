"""The command line, ``websuckets``; needs the extra ``cli``."""
