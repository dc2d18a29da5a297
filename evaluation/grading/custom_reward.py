"""The user's reward function instead of the grader: a Python file as for OpenRLHF's `--reward.remote_url`."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class RewardError(ValueError):
    """A reward file that cannot be used, in one line."""


class CustomReward:
    """`reward_func(queries, prompts, labels)` of a Python file; `version` is its name and hash."""

    def __init__(self, path: Path):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RewardError(f"--reward {path}: {error.strerror}") from None
        self.path, self.version = path, f"{path.name}+{hashlib.sha256(content).hexdigest()[:12]}"
        spec = importlib.util.spec_from_file_location("evaluation_custom_reward", path)
        if spec is None or spec.loader is None:
            raise RewardError(f"--reward {path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's code raises
            raise RewardError(f"--reward {path}: {type(error).__name__}: {error}") from None
        function = getattr(module, "reward_func", None)
        if not callable(function):
            raise RewardError(f"--reward {path}: defines no reward_func(queries, prompts, labels)")
        self.function: Callable[..., Mapping[str, Any]] = function

    def is_right(self, problem: Mapping[str, Any], text: str) -> bool:
        """True if the response's score is above 0; without scores, if its reward is."""
        prompt = problem.get("prompt") if isinstance(problem.get("prompt"), str) else problem.get("text", "")
        try:
            answer = self.function([f"{prompt}{text}"], [prompt], [problem["gold"]])
            value = answer["scores" if answer.get("scores") is not None else "rewards"]
            return float(value[0]) > 0
        except Exception as error:
            where = f"{problem.get('benchmark')}/{problem.get('problem')}"
            raise RewardError(f"--reward {self.path}: {where}: {type(error).__name__}: {error}") from None
