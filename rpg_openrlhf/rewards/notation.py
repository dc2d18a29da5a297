"""Tables of notation.yaml: names of symbols and commands, and closed classes of words."""

from pathlib import Path

import yaml

_TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def words_of(table: str) -> frozenset[str]:
    """Words of a table."""
    return frozenset(_TABLES[table].split())


def synonyms(table: str) -> dict[str, str]:
    """Each synonym in a table -> the name that it stands for."""
    return {other: name for name, others in _TABLES[table].items() for other in others.split()}
