"""Six benchmarks by name, with their data sets on the hub. A test compares them with those the evaluation scores."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.hub import reason_of


class OnHub(NamedTuple):
    """A dataset of the hub, at one commit."""

    dataset: str
    config: str | None
    split: str
    revision: str


HUB = {
    "aime24": OnHub("HuggingFaceH4/aime_2024", None, "train", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
    "aime25": OnHub("math-ai/aime25", None, "test", "563bb8404243c5f09de6ec262f2db674fe5bce9b"),
    "amc23": OnHub("math-ai/amc23", None, "test", "80815d37005feb82cd7f8fbc6901d5d3eff43057"),
    "minerva_math": OnHub("math-ai/minervamath", None, "test", "ee46ddc498933b1977577953250ca5c66be64f96"),
    "olympiadbench": OnHub(
        "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", "91184b52131e7fc9455fef848035173aea8cc01a"
    ),
    "math500": OnHub("HuggingFaceH4/MATH-500", None, "test", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
}


def from_hub(name: str, flag: str, fix: str) -> Iterator[tuple[str, Any]]:
    """Yield every row of a benchmark with its place; a Refusal that ends with `fix` if it cannot be loaded."""
    source = HUB[name]
    try:
        from datasets import load_dataset  # slow to import, and not needed for files

        rows = load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises a dozen types
        raise Refusal(f"{flag} {name}: {source.dataset} cannot be loaded ({reason_of(error)}); {fix}") from None
    for number, row in enumerate(rows, start=1):
        yield f"{source.dataset}:{number}", row
