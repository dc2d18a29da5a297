"""A seed of its own for every sample, so that no choice about other samples can change it."""

import hashlib


def seed_of(seed: int, benchmark: str, problem: str, sample: int) -> int:
    """31 bits: torch's CPU generator reads no more than 32 of a seed, and some servers refuse larger ones."""
    digest = hashlib.sha256(f"{seed}\0{benchmark}\0{problem}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
