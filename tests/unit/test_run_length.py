"""A run that ends before the rollouts it announced has failed."""

from types import SimpleNamespace

import pytest

from rpg_openrlhf.launch.attempt import check_length

ARGS = SimpleNamespace(
    train=SimpleNamespace(max_rollouts=400, num_episodes=3), ckpt=SimpleNamespace(output_dir="out/model")
)


def test_data_that_ends_first_is_an_error():
    with pytest.raises(RuntimeError, match=r"ended after 5 of 400 rollouts .* raise --train.num_episodes"):
        check_length(ARGS, 400, 5)


@pytest.mark.parametrize(("announced", "taken"), [(400, 400), (24, 5), (0, 0)])
def test_other_ends_are_none(announced, taken):
    """All of them; fewer than the episodes might give under dynamic sampling; a trainer that announces nothing."""
    check_length(ARGS, announced, taken)
