"""Folders of the repository, for tests that read or run its files."""

from pathlib import Path
from typing import Final

SUPPORT: Final = Path(__file__).parent
ROOT: Final = SUPPORT.parent.parent
EXAMPLES: Final = ROOT / "examples"
