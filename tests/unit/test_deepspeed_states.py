"""Optimizer states of DeepSpeed: what is cleared, forgotten and offloaded, with stand-ins that behave as its own."""

from types import SimpleNamespace as Namespace

import pytest
import torch

from rpg_openrlhf.deepspeed_states import (
    OFFLOADED,
    clear_moments,
    drop_offload_buffers,
    where_possible,
    with_an_adam_that_exists,
)


class FusedAdam(torch.optim.AdamW):
    """Has the name that DeepSpeed's ZeRO 3 asserts."""


def engine(kind=FusedAdam, stage=3, offloads=True) -> Namespace:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    wrapper = Namespace(optimizer=optimizer, param_groups=optimizer.param_groups)
    if offloads:
        wrapper.offload_states = None
    return Namespace(optimizer=wrapper, zero_optimization_stage=lambda: stage)


def offload(made: Namespace) -> None:
    """deepspeed/runtime/zero/offload_states.py offload_adam_states: into the buffer that is there, else a new one."""
    for state in made.optimizer.optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            if name + OFFLOADED not in state:
                state[name + OFFLOADED] = torch.empty_like(state[name])
            state[name + OFFLOADED].copy_(state[name])
            state[name].data = state[name + OFFLOADED]


def test_a_reset_after_states_were_offloaded():
    """Over configs/base.yaml, which has --ds.enable_sleep, they always were."""
    made = engine()
    offload(made)
    clear_moments(made)
    (state,) = made.optimizer.optimizer.state.values()
    assert not state["exp_avg"].any()
    assert not state["exp_avg_sq"].any()
    state["unheard_of"] = 1
    with pytest.raises(AssertionError, match="FusedAdam holds unheard_of, which is no moment"):
        clear_moments(made)


def test_a_checkpoint_written_while_offloaded_brings_no_buffers():
    """Loaded onto a GPU they would be what DeepSpeed "offloads" to."""
    made = engine()
    offload(made)
    drop_offload_buffers(made)
    (state,) = made.optimizer.optimizer.state.values()
    assert {str(name) for name in state} == {"step", "exp_avg", "exp_avg_sq"}
    assert state["exp_avg"].any()


@pytest.mark.parametrize(
    ("made", "moves"),
    [
        (engine(), True),
        (engine(torch.optim.AdamW), False),  # ZeRO 3 asserts FusedAdam
        (engine(torch.optim.AdamW, stage=2), True),
        (engine(stage=0, offloads=False), False),
    ],
)
def test_only_states_that_deepspeed_moves_are_moved(made, moves):
    asked = []
    where_possible(lambda engine, non_blocking=True: asked.append(non_blocking))(made, non_blocking=False)
    assert asked == ([False] if moves else [])


def config(kind="AdamW", device="none") -> dict:
    return {
        "optimizer": {"type": kind, "params": {"lr": 1.0}},
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": device}},
    }


def test_torchs_adam_where_fused_adam_cannot_be_built():
    changed = with_an_adam_that_exists(config(), "no nvcc")
    assert changed["optimizer"]["params"] == {"lr": 1.0, "torch_adam": True}
    for same, problem in ((config(), None), (config("Muon"), "no nvcc"), (config(device="cpu"), "no nvcc")):
        assert with_an_adam_that_exists(same, problem) is same
    assert with_an_adam_that_exists({"zero_optimization": {}}, "no nvcc") == {"zero_optimization": {}}
