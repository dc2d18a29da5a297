"""Stages by name, and the exceptions that end one."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_FIX = "rpg-check --verbose shows the whole output"  # the fix if a stage names none


class Failed(Exception):
    """The stage found a problem; `fix` says what to do."""

    def __init__(self, wrong: str, fix: str):
        super().__init__(wrong)
        self.fix = fix


class Skipped(Exception):
    """The stage has nothing to test here."""


class Stage(NamedTuple):
    module: str  # in rpg_openrlhf.check; imported only in the stage's own process
    seconds: int  # time limit
    about: str


STAGES = {
    "versions": Stage("machine", 60, "versions that fit together"),
    "machine": Stage("machine", 60, "shared memory, file handles, disk, caches, the hub"),
    "attention": Stage("numerics", 120, "log-probs of packed samples against those of one sample at a time"),
    "optimizer": Stage("numerics", 300, "the optimizer that a run will get, against torch's AdamW"),
    "log_probs": Stage("numerics", 120, "log-probs without logits, against float64"),
    "transport": Stage("engine", 120, "weights from one process to another, by the platform's transport"),
    "engine": Stage("engine", 300, "an engine that generates, sleeps, wakes and takes weights"),
    "cluster": Stage("cluster", 120, "every node of the Ray cluster: the same versions and the same files"),
}
