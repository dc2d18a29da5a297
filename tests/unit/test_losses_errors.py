"""Every value out of range is refused, by name and value, before anything is computed."""

import math

import pytest
import torch

from rpg_openrlhf.objectives.losses import rpg_token_losses

VALID = {"divergence": "urkl", "gradient_estimator": "reinforce", "beta": 1e-4, "importance_level": "token"}


def call(log_probs=(2, 3), old_log_probs=(2, 3), advantages=(2, 3), ref_log_probs=None, action_mask=None, **options):
    """Call with zeros of the given shapes."""
    shapes = (log_probs, old_log_probs, advantages, ref_log_probs, action_mask)
    tensors = [None if shape is None else torch.zeros(shape) for shape in shapes]
    return rpg_token_losses(*tensors, **(VALID | options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("divergence", "kl"),
        ("divergence", "URKL"),
        ("divergence", ""),
        ("divergence", None),
        ("gradient_estimator", "reinforce_clip"),
        ("gradient_estimator", "ppo"),
        ("importance_level", "seq"),
        ("importance_level", "tok"),
        ("reward_weight", "prefix"),
        ("clip_mode", "clip"),
        ("beta", -1e-4),
        ("beta", math.nan),
        ("beta", math.inf),
        *((name, value) for name in ("clip_eps_low", "clip_eps_high") for value in (0.0, -0.2, 1.28, math.nan)),
        *(("dual_clip", value) for value in (1.0, 0.5, 0.0, -3.0, math.inf, math.nan)),
    ],
)
def test_option_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must .* got ") as error:
        call(**{name: value})
    assert str(error.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("log_probs", (6,)),
        ("log_probs", (2, 3, 1)),
        ("old_log_probs", (2, 4)),
        ("old_log_probs", (1, 3)),
        ("ref_log_probs", (2, 1)),
        ("ref_log_probs", (3, 2)),
        ("action_mask", (2, 4)),
        ("action_mask", (3,)),
        ("advantages", (2,)),
        ("advantages", (1, 3)),
        ("advantages", (1, 1)),
        ("advantages", (2, 2)),
    ],
)
def test_shape_that_does_not_fit(name, shape):
    with pytest.raises(ValueError, match=rf"^{name} must have ") as error:
        call(**{name: shape})
    assert str(error.value).endswith(f"got {shape}")


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0},
        {"beta": 0.0},
        {"clip_eps_low": 1e-6, "clip_eps_high": 1 - 1e-6, "dual_clip": 1 + 1e-6},
        {"clip_eps_low": 0.2},
        {"clip_eps_high": 0.28},
        {"dual_clip": 10},
        {"advantages": (2, 1)},
        {"action_mask": (2, 3), "ref_log_probs": (2, 3)},
    ],
)
def test_values_at_the_edge_are_taken(options):
    assert call(**options).losses.shape == (2, 3)
