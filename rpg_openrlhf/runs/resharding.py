"""Resharding: a checkpoint is loaded by another number of ranks, or under another ZeRO stage.

DeepSpeed's own loader requires the same number and stage. Its universal checkpoints (0.19.6,
checkpoint/ds_to_universal.py) are written by a separate conversion, do not cross from ZeRO 2 to 3, and give every
parameter group the settings of the first, weight decay included (runtime/zero/stage3.py). Here each rank reads the
slices that it needs from the files of all ranks; `places_rank*.json` state what these hold.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist

from rpg_openrlhf.deepspeed_states import OFFLOADED, innermost
from rpg_openrlhf.runs.checkpoints import PLACES, SHARDED
from rpg_openrlhf.shards import Piece, Place, fill, places

COUNTERS = ("global_steps", "global_samples", "skipped_steps")


class ReshardingError(ValueError):
    """A checkpoint's files do not hold what an engine needs. The message is one line."""


def write_places(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Write into `folder` which weights this rank's optimizer file holds, and where."""
    if engine.zero_optimization_stage() in SHARDED:
        (folder / PLACES.format(dist.get_rank())).write_text(json.dumps(places(engine)), encoding="utf-8")


class _Part(NamedTuple):
    """Optimizer file of one rank: its flat tensors and their states by group, and the parameter groups."""

    flat: list[torch.Tensor]
    states: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]
    places: list[Place]


def load(engine: deepspeed.DeepSpeedEngine, folder: Path, ranks: int) -> dict[str, Any]:
    """Load weights, moments, counters and the schedule from a checkpoint of `ranks` ranks; return its other states.

    Every rank calls it. Raise ReshardingError if files are missing or hold something else.
    """
    try:
        parts = [_part(folder, rank) for rank in range(ranks)]
        _load_optimizer(engine, parts)
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ReshardingError(f"{folder} cannot be loaded by {dist.get_world_size()} ranks: {error}") from None
    states = _states(folder)
    for counter in COUNTERS:
        setattr(engine, counter, states[counter])
    if engine.lr_scheduler is not None:
        engine.lr_scheduler.load_state_dict(states["lr_scheduler"])
    return states


def _states(folder: Path) -> dict[str, Any]:
    """Content of the model's file without the weights; of rank 0's file under ZeRO 3, where every rank wrote one."""
    file = next(folder.glob("*mp_rank_00_model_states.pt"))
    states = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    return {name: value for name, value in states.items() if name not in ("module", "optimizer")}


def _part(folder: Path, rank: int) -> _Part:
    part_places = [Place(*place) for place in json.loads((folder / PLACES.format(rank)).read_text(encoding="utf-8"))]
    (file,) = folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    content = torch.load(file, map_location="cpu", mmap=True, weights_only=False)["optimizer_state_dict"]
    if "fp32_flat_groups" in content:  # ZeRO 3
        flat, optimizer = content["fp32_flat_groups"], content["optimizer_state_dict"]
    else:
        flat, optimizer = content["single_partition_of_fp32_groups"], content["base_optimizer_state"]
    return _Part(flat, optimizer["state"], optimizer["param_groups"], part_places)


def _load_optimizer(engine: deepspeed.DeepSpeedEngine, parts: list[_Part]) -> None:
    """Fill this rank's weights and moments from the files of all ranks, whichever ranks wrote their pieces."""
    optimizer, base_optimizer = engine.optimizer, innermost(engine.optimizer)
    at_stage_3 = engine.zero_optimization_stage() == 3
    flat_weights = optimizer.fp32_partitioned_groups_flat if at_stage_3 else optimizer.single_partition_of_fp32_groups
    saved: dict[str, list[tuple[_Part, Place]]] = {}  # weight -> the files that hold a piece of it, and where
    for part in parts:
        for place in part.places:
            saved.setdefault(place.name, []).append((part, place))
    if at_stage_3:
        optimizer.checkpoint_event_prologue()
    own_places: dict[int, list[Place]] = {}  # of this rank, by parameter group
    for place in places(engine):
        own_places.setdefault(place.group, []).append(place)
    for group, group_places in own_places.items():
        flat = flat_weights[group]
        states = _empty_states(*saved[group_places[0].name][0], flat)
        for place in group_places:
            end = place.offset + place.numel
            fill(flat.data[place.offset : end], place.start, place.name, _pieces(saved[place.name], None))
            for key, value in states.items():
                if _is_elementwise(value, flat):
                    fill(value[place.offset : end], place.start, place.name, _pieces(saved[place.name], key))
        base_optimizer.state[flat] = states
    for param_group, saved_group in zip(base_optimizer.param_groups, parts[0].param_groups, strict=True):
        param_group.update({name: value for name, value in saved_group.items() if name != "params"})
    _update_weights(engine)


def _empty_states(part: _Part, place: Place, flat: torch.Tensor) -> dict[str, Any]:
    """States for this rank's flat tensor: zeros for elementwise states of the saved group, copies of the others."""
    states = {}
    for key, value in part.states[place.group].items():
        if str(key).endswith(OFFLOADED):
            continue
        if _is_elementwise(value, part.flat[place.group]):
            states[key] = torch.zeros_like(flat, dtype=value.dtype)
        else:
            states[key] = value.clone() if isinstance(value, torch.Tensor) else value
    return states


def _is_elementwise(value: Any, flat: torch.Tensor) -> bool:
    """True for a state with one value for each element of the flat weights, such as a moment; False for a step count.

    ZeRO 1 and 2 save weights without padding and moments with padding, hence >=.
    """
    return isinstance(value, torch.Tensor) and value.dim() == 1 and value.numel() >= flat.numel()


def _pieces(saved: list[tuple[_Part, Place]], key: str | None) -> list[Piece]:
    """Pieces of a weight (key None) or of one of its moments."""
    pieces = []
    for part, place in saved:
        flat = part.flat[place.group] if key is None else part.states[place.group][key]
        pieces.append(Piece(place.start, flat[place.offset : place.offset + place.numel]))
    return pieces


@torch.no_grad()
def _update_weights(engine: deepspeed.DeepSpeedEngine) -> None:
    """Copy the fp32 weights of all ranks to the weights in use."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() != 3:
        optimizer.update_lp_params()
        return
    for group, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
        weights = optimizer.fp16_groups[group]
        for weight, values in zip(weights, optimizer.unflatten(flat, [w.ds_tensor for w in weights]), strict=True):
            weight.ds_tensor.data.copy_(values)
    optimizer.checkpoint_event_epilogue()
