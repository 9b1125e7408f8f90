"""The program that ``python -m websuckets`` runs: the command line."""

from websuckets.cli import main

if __name__ == "__main__":
    main()
