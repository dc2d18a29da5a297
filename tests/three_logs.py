"""What TensorBoard and W&B's offline files hold, read back: {step: {name: value}}; a name twice a step is an error."""

import json
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


def wandb(folder: Path) -> tuple[dict[int, dict[str, float]], dict, dict]:
    """The numbers of an offline run's folder; its configuration; name, group and tags."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (file,) = folder.glob("*.wandb")
    store, steps, config, run = DataStore(), {}, {}, {}
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = Record.FromString(data)
        if record.HasField("run"):
            run = {"name": record.run.display_name, "group": record.run.run_group, "tags": list(record.run.tags)}
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in row.items():
            if not name.startswith("_") and name != "step" and isinstance(value, int | float):
                _add(steps, int(row["step"]), name, value)
    return steps, config, run
