"""The controller asks the schedule after a step, has the policy's actors move the reference, and logs it."""

from types import SimpleNamespace

import pytest

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.reference.schedule import RefreshSchedule
from rpg_openrlhf.training import trainer as rpg_trainer
from rpg_openrlhf.training.trainer import RPGTrainer


@pytest.fixture
def controller(monkeypatch):
    """One without models: what its actors are asked, and what it puts in the queue."""
    monkeypatch.setattr(rpg_trainer, "ray", SimpleNamespace(get=lambda refs: refs))

    def build(mix=None, reset_optimizer=False, **rule):
        made = object.__new__(RPGTrainer)
        made.schedule, made._moved = RefreshSchedule(**rule), None
        made.args = SimpleNamespace(ref=SimpleNamespace(mix=mix, reset_optimizer=reset_optimizer))
        made.experience_maker = SimpleNamespace(kl_start=0.125)
        made.asked = []
        made.actor_model_group = SimpleNamespace(async_run_method=lambda *words: made.asked.append(words) or [])
        return made

    return build


def step(controller, kl: float, number: int = 1) -> dict:
    return controller._move_reference({"policy/kl_ref_k3": kl, "policy/optimizer_steps": 4.0}, number)


def test_a_reference_that_stays(controller):
    made = controller(refresh="kl", kl_target=0.1)
    assert step(made, 0.05) == {
        "ref/refresh": 0.0,
        "ref/kl_average": 0.05,
        "ref/steps_since_refresh": 4.0,
        "ref/kl_start": 0.125,
    }
    assert (made.asked, made._moved) == ([], None)


def test_a_reference_that_is_replaced(controller):
    made = controller(refresh="kl", kl_target=0.1, reset_optimizer=True)
    logged = step(made, 0.2, number=7)
    assert logged.items() >= {"ref/refresh": 1.0, "ref/kl_before": 0.2, "ref/kl_after": 0.0}.items()
    assert logged["timing/refresh"] >= 0
    assert made.asked == [("refresh_reference", 1.0, True)]
    assert made._moved == {"step": 7, "reason": "kl", "kl_before": 0.2, "kl_after": 0.0}
    assert step(made, 0.05)["ref/kl_average"] == 0.05, "the average starts anew"


def test_a_mix_is_measured_later(controller):
    made = controller(mix=0.5, refresh="interval", interval=8)
    assert step(made, 0.2)["ref/refresh"] == 0
    assert "ref/kl_after" not in step(made, 0.3, number=2)
    assert made.asked == [("refresh_reference", 0.5, False)]
    assert made._moved == {"step": 2, "reason": "interval", "kl_before": 0.3}


def test_ema_has_moved_in_the_actors_already(controller):
    made = controller(mix=0.1, refresh="ema")
    assert step(made, 0.2)["ref/refresh"] == 1
    assert made.asked == []
    assert made._moved["reason"] == "ema"


def test_the_best_so_far_is_of_the_metric_that_is_chosen_now():
    made = object.__new__(RPGTrainer)
    for chosen, value in (("eval/mean@4", 0.75), ("eval/aime24/mean@4", 0.0)):
        made.best_eval_metric_key, made.best_eval_metric_value = chosen, 0.0
        made.restore_best_checkpoint_state({"best_eval_metric_key": "eval/mean@4", "best_eval_metric_value": 0.75})
        assert (made.best_eval_metric_key, made.best_eval_metric_value) == (chosen, value)
    made.restore_best_checkpoint_state({})
    made.restore_best_checkpoint_state(None)


def test_tokens_in_a_second():
    rollout = {"rollout/num_samples": 64.0, "rollout/response_length_mean": 10.0}
    assert rpg_trainer.with_rate(rollout | {"timing/step_total": 2.0})["tokens_per_second"] == 320
    assert rpg_trainer.with_rate(rollout)["tokens_per_second"] == 0


def test_an_owed_evaluation_saves_its_best_without_deepspeeds_own_entries():
    """DeepSpeed refuses a checkpoint whose client state has one of its names, which a loaded one has."""
    made, saved = object.__new__(RPGTrainer), []
    made.args = SimpleNamespace(eval=SimpleNamespace(temperature=0.5, n_samples_per_prompt=2))
    made.generate_kwargs = {"temperature": 1.0, "max_len": 9}
    made.evaluate = lambda step, **sampling: {"step": step, **sampling}
    made.save_best_checkpoint = lambda *words: saved.append(words)
    ours = {"episode": 1, "global_step": 4, "total_consumed_prompts": 8, "data_loader_state_dict": {}, "trainer": "t"}
    made._evaluate_first(ours | {"checkpoint_parallel_dimensions": "DeepSpeed's"})
    assert saved == [({"step": 4, "temperature": 0.5, "n_samples_per_prompt": 2, "max_len": 9}, 4, ours)]


def test_what_an_episode_leaves_counts_in_the_schedule():
    """64 episodes of 100 prompts in rollouts of 64: 100 rollouts, where upstream counts one an episode."""
    made = object.__new__(RPGTrainer)
    made.prompts_dataloader, made._report = range(100), lambda *words: None
    made.args = SimpleNamespace(
        train=SimpleNamespace(num_episodes=64, max_rollouts=None, batch_size=512, max_epochs=1),
        rollout=SimpleNamespace(batch_size=64, n_samples_per_prompt=8),
    )
    assert made.get_max_steps() == 100


@pytest.mark.parametrize(("limit", "rollouts", "steps"), [(None, 6, 48), (4, 4, 32), (6, 6, 48), (9, 6, 48)], ids=str)
def test_the_schedule_ends_with_the_last_rollout(limit, rollouts, steps):
    """24 prompts, 8 a rollout, 2 episodes; 8 optimizer steps a rollout."""
    made, told = object.__new__(RPGTrainer), []
    made.prompts_dataloader = range(24)
    made._report = lambda *words: told.append(words)
    made.args = SimpleNamespace(
        train=SimpleNamespace(num_episodes=2, max_rollouts=limit, batch_size=4, max_epochs=2),
        rollout=SimpleNamespace(batch_size=8, n_samples_per_prompt=2),
    )
    assert made.get_max_steps() == steps
    assert told == [("start", 0, {"rollouts": rollouts})]


def test_after_so_many_rollouts_no_more_are_drawn():
    made = object.__new__(RPGTrainer)
    made.args = SimpleNamespace(train=SimpleNamespace(max_rollouts=3))
    made.samples_generator = SimpleNamespace(ended=False)
    ended = []
    for step in range(1, 4):
        made._end_after(step)
        ended.append(made.samples_generator.ended)
    assert ended == [False, False, True]
