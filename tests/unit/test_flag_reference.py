"""docs/flags.md is what the parser says today."""

from pathlib import Path

from rpg_openrlhf.commands import flag_reference
from rpg_openrlhf.settings import own_flags

PAGE = Path(__file__).resolve().parents[2] / "docs" / "flags.md"


def test_the_page_is_not_stale():
    fix = "python -m rpg_openrlhf.commands.flag_reference > docs/flags.md"
    assert PAGE.read_text(encoding="utf-8") == flag_reference.reference(), fix


def test_ours_are_marked_and_have_their_sentence():
    rows = [line for line in flag_reference.reference().splitlines() if line.startswith("| **")]
    assert {row.split("`")[1] for row in rows} >= {f"--{flag.name}" for flag in own_flags.FLAGS}
    assert all(len(row.split(" | ")) == 4 and row.split(" | ")[3].strip(" |") for row in rows)
