"""Tests that the texts of errors tell the event, the place and the remedy, mistake by mistake."""

from pathlib import Path
from typing import Final

import pytest
from mistakes import Mistake, see
from mistakes_at_start import CONFIGURING, MOUNTING, STARTING, TESTING
from mistakes_in_dependencies import DEPENDENCIES, SCOPES, SECURITY
from mistakes_in_errors import ERRORS
from mistakes_in_results import AROUND_COMMANDS, RESULTS, SENDING
from mistakes_in_signatures import SIGNATURES

MISTAKES: Final = [
    *SIGNATURES,
    *ERRORS,
    *DEPENDENCIES,
    *SCOPES,
    *SECURITY,
    *RESULTS,
    *SENDING,
    *AROUND_COMMANDS,
    *STARTING,
    *MOUNTING,
    *TESTING,
    *CONFIGURING,
]

each = pytest.mark.parametrize(
    "mistake",
    [pytest.param(m, id=m.name, marks=[pytest.mark.heavy] if m.is_heavy else []) for m in MISTAKES],
)


@each
def test_a_mistake_is_told_with_its_place_and_its_remedy(mistake: Mistake, tmp_path: Path) -> None:
    seen = see(mistake.program, tmp_path)
    assert [part for part in mistake.says if part not in seen.text] == [], seen.text
    assert not mistake.places or any(p in seen.text for p in mistake.places), seen.text
    assert not seen.is_led_by_us, seen.text


@each
def test_the_remedy_for_a_mistake_helps(mistake: Mistake, tmp_path: Path) -> None:
    seen = see(mistake.mended_program, tmp_path)
    assert not seen.has_failed, seen.text
