"""A reward whose judge keeps a record, can be held up and can fail: copied to the folder that it works in.

`judge.json` holds its settings. `record.jsonl` gets time, process, prompt and reward of every sample, in order.
"""

import importlib
import json
import os
import random
import shutil
import threading
import time
from itertools import count
from pathlib import Path

HERE = Path(__file__).parent
CHANCE, ORDER = random.Random(os.getpid() + time.time_ns()), count()


def install(folder: Path, judge: str = "digit_reward", limit: int = 10**9, rate: float = 0.0) -> Path:
    """Write the settings: the reward's module, samples after which no more is judged, share that fails -> the file."""
    (folder / "judge.json").write_text(json.dumps({"judge": judge, "limit": limit, "rate": rate}), encoding="utf-8")
    return Path(shutil.copy(__file__, folder))


def reward_func(queries, prompts, labels):
    """Upstream's entry point, called with one sample."""
    settings = json.loads((HERE / "judge.json").read_text(encoding="utf-8"))
    if next(ORDER) >= settings["limit"]:
        threading.Event().wait()
    if CHANCE.random() < settings["rate"]:
        raise RuntimeError("the judge is out")
    judge = importlib.import_module(f"tests.integration.{settings['judge']}")
    answer = judge.reward_func(queries, prompts, labels)
    line = json.dumps([time.time(), os.getpid(), prompts[0], answer["rewards"]])
    with (HERE / "record.jsonl").open("a", encoding="utf-8") as record:  # samples are judged in threads: one write
        record.write(f"{line}\n")
    return answer
