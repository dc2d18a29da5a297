"""What a rank writes beside the models, and what is said when it cannot."""

import errno
import random
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray.core.generated.common_pb2 import ActorDeathCause

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.launch import deaths
from rpg_openrlhf.runs import checkpoints
from rpg_openrlhf.runs.checkpointing import (
    CheckpointError,
    CheckpointingStrategy,
    WholeCheckpoints,
    random_state,
    set_random_state,
)
from rpg_openrlhf.runs.checkpoints import ACTOR, CRITIC, WRITING
from tests.unit.test_checkpoints import write


def drawn() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_generators_go_on_where_they_were(tmp_path):
    drawn()
    torch.save(random_state(), tmp_path / "state")
    expected = drawn(), drawn()
    set_random_state(torch.load(tmp_path / "state", weights_only=False))
    assert (drawn(), drawn()) == expected


class Model:
    """Upstream's actor: writes a file, or fails to."""

    error: Exception | None = None

    def __init__(self, path: Path):
        self.committed = []
        self.strategy = SimpleNamespace(args=SimpleNamespace(ckpt=SimpleNamespace(path=str(path))))
        self.strategy.commit = self.committed.append

    def save_checkpoint(self, tag, client_states=None):
        hidden = Path(self.strategy.args.ckpt.path, ACTOR, WRITING, tag)
        hidden.mkdir(parents=True)
        (hidden / "half").touch()
        if self.error:
            raise self.error


class Saved(WholeCheckpoints, Model):
    part = ACTOR


def test_a_checkpoint_counts_when_all_of_it_is_there(tmp_path):
    model = Saved(tmp_path)
    model.save_checkpoint(tag="best_global_step12", client_states={})
    assert model.committed == [12]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"the disk is full \(\d+ MiB free\)"),
        (RuntimeError("PytorchStreamWriter failed\nmore"), "PytorchStreamWriter failed"),
    ],
)
def test_one_that_cannot_be_written_says_which_is_the_last_good_one(tmp_path, error, why):
    model = Saved(tmp_path)
    model.error = error
    with pytest.raises(
        CheckpointError, match=f"--ckpt.path {tmp_path}: global_step3 was not written: {why}; there is no"
    ):
        model.save_checkpoint(tag="global_step3")
    assert model.committed == []
    assert not (tmp_path / ACTOR / WRITING).exists(), "what is half written takes no room"
    write(tmp_path, "global_step2")
    with pytest.raises(CheckpointError, match="global_step2 is whole and kept; make room, then give the same command"):
        model.save_checkpoint(tag="global_step3")


def cause(**context) -> ActorDeathCause:
    return ActorDeathCause(**context)


def test_who_was_lost_and_who_left():
    """An actor that nobody needs any more, or whose constructor failed, is no death that a restart would fix."""
    assert deaths._was_lost(cause(actor_died_error_context={"reason": "WORKER_DIED"}))
    assert deaths._was_lost(cause(actor_died_error_context={"reason": "NODE_DIED"}))
    assert deaths._was_lost(cause(oom_context={}))
    for reason in ("REF_DELETED", "OUT_OF_SCOPE", "RAY_KILL", "OWNER_DIED"):
        assert not deaths._was_lost(cause(actor_died_error_context={"reason": reason}))
    assert not deaths._was_lost(cause(creation_task_failure_context={}))


@pytest.fixture
def in_a_cluster(monkeypatch):
    monkeypatch.setattr(deaths.ray, "is_initialized", lambda: True)


def test_without_ray_nobody_is_asked(monkeypatch):
    """Ray's calls would start a cluster, or wait for that of RAY_ADDRESS, which has just refused the run."""
    monkeypatch.setattr(deaths, "_dead", lambda: pytest.fail("asked"))
    assert deaths.death(ConnectionError("no")) is None


def test_the_first_to_die_is_named(monkeypatch, in_a_cluster):
    """Not the one that lost its peer."""
    lost = {"DeathCause": cause(actor_died_error_context={"reason": "WORKER_DIED"})}
    table = [
        lost | {"ActorClassName": name, "Pid": pid, "EndTime": end} for name, pid, end in (("B", 2, 9), ("A", 1, 5))
    ]
    context = SimpleNamespace(get_job_id=lambda: "01000000")
    monkeypatch.setattr(deaths.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(deaths, "actors", lambda **filters: dict(enumerate(table)))
    assert deaths.death(RuntimeError("Connection closed by peer")) == {"what": "A (pid 1) died", "pid": 1}


def test_a_lost_node_is_named_and_waited_for(monkeypatch, in_a_cluster):
    """Ray's table knows it later than the error of whoever lost a peer there."""
    context = {"reason": "NODE_DIED", "node_ip_address": "10.0.0.2"}
    lost = {"DeathCause": cause(actor_died_error_context=context), "ActorClassName": "A", "Pid": 1}
    looks = iter([None, None, lost])
    monkeypatch.setattr(deaths, "KNOWN_AFTER", 0)
    monkeypatch.setattr(deaths, "_dead", lambda: next(looks))
    monkeypatch.setattr(deaths.ray, "nodes", lambda: [{"Alive": True}, {"Alive": True}])
    died = deaths.death(RuntimeError("Connection closed by peer"))
    assert died == {"what": "A (pid 1) died with its node 10.0.0.2", "pid": 1}


def test_an_error_without_a_death(monkeypatch, in_a_cluster):
    monkeypatch.setattr(deaths, "KNOWN_AFTER", 0)
    monkeypatch.setattr(deaths, "_dead", lambda: None)
    assert deaths.death(ValueError("no")) is None
    assert deaths.death(RuntimeError("ray::X: EngineDeadError: the core is gone")) == {
        "what": "vLLM's engine process died"
    }
    monkeypatch.setattr(deaths, "_dead", lambda: 1 / 0)  # the table cannot be read
    assert deaths.death(ValueError("no"))["what"].startswith("Ray itself died")


@pytest.fixture
def watched(monkeypatch):
    """Somebody dies after a moment; what the watch made of it."""
    monkeypatch.setattr(deaths, "EVERY", 0.01)
    told, looks = [], iter([None, None])
    monkeypatch.setattr(deaths, "_first", lambda: next(looks, {"what": "A died"}))
    return told


def test_a_death_that_nobody_reports_is_found(watched, monkeypatch):
    monkeypatch.setattr(deaths, "KNOWN_AFTER", 0.01)
    deaths.watch(watched.append, threading.Event())
    assert watched == [{"what": "A died"}]


def test_one_that_somebody_reports_is_left_to_him(watched, monkeypatch):
    monkeypatch.setattr(deaths, "KNOWN_AFTER", 10)
    over = threading.Event()
    threading.Timer(0.2, over.set).start()
    deaths.watch(watched.append, over)
    assert watched == []


def test_a_model_saved_in_another_form_leaves_nothing_of_the_first(tmp_path, monkeypatch):
    """`--ckpt.merge_lora` changed between two parts of a run: a stale adapter would be taken for the model."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "model.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    strategy = object.__new__(CheckpointingStrategy)
    monkeypatch.setattr(CheckpointingStrategy, "is_rank_0", lambda self: True)
    strategy._remove_other_form(tmp_path, "adapter_config.json", "adapter_model.*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "notes.txt"]


def publish(path: Path, part: str, step: int, max_num: int) -> None:
    """Write and publish one part of a run with a critic, as its actor's first rank does."""
    strategy = object.__new__(CheckpointingStrategy)
    ckpt = SimpleNamespace(record={"flags": {}})
    strategy.args = SimpleNamespace(critic=SimpleNamespace(model_name_or_path="critic"), ckpt=ckpt)
    strategy.world_size = 1
    folder = path / part / WRITING / f"global_step{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(part)
    strategy.written = (folder, {"max_num": max_num, "max_mem": 1000})
    strategy._publish(step)


@pytest.mark.parametrize("max_num", [1, 3])
@pytest.mark.parametrize("order", [(ACTOR, CRITIC), (CRITIC, ACTOR)])
def test_actor_and_critic_rotate_together(tmp_path, order, max_num):
    """At any moment a whole checkpoint is there, and no part of one that is gone."""
    for step in range(1, 7):
        for part in order:
            publish(tmp_path, part, step, max_num)
            assert step == 1 or checkpoints.newest(tmp_path) is not None
        expected = {f"global_step{number}" for number in range(max(1, step - max_num + 1), step + 1)}
        for part in order:
            assert {folder.name for folder in (tmp_path / part).glob("global_step*")} == expected
