"""What TensorBoard and W&B's offline files hold, read back: {step: {name: value}}; a name twice a step is an error."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path


def _add(steps: dict, step: int, name: str, value: float) -> None:
    row = steps.setdefault(step, {})
    assert name not in row, f"{name} stands twice at step {step}"
    row[name] = value


def tensorboard(folder: Path) -> dict[int, dict[str, float]]:
    """The scalars of a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events, steps = EventAccumulator(str(folder), size_guidance={"scalars": 0}), {}
    events.Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            _add(steps, event.step, name, event.value)
    return steps


def _records(content: bytes) -> Iterator[bytes]:
    """W&B's file is a log of LevelDB's: blocks of 32 KiB, in which a record has a head and may go on in the next."""
    place, whole = 7, b""  # after the file's own head
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # no room for a head
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of it, or its end
            yield whole
            whole = b""


def wandb(folder: Path) -> tuple[dict[int, dict[str, float]], dict, dict]:
    """The numbers of an offline run's folder; its configuration; name, group and tags."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    steps, config, run = {}, {}, {}
    for data in _records(file.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("run"):
            run = {"name": record.run.display_name, "group": record.run.run_group, "tags": list(record.run.tags)}
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in row.items():
            if not name.startswith(("_", "generated_samples")) and name != "step" and isinstance(value, int | float):
                _add(steps, int(row["step"]), name, value)
    return steps, config, run
