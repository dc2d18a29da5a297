"""Which folders are whole checkpoints, which are deleted, and what has changed since one was written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpg_openrlhf.runs import checkpoints, resuming
from rpg_openrlhf.runs.checkpoints import ACTOR, CRITIC, Checkpoint


def write(path: Path, tag: str, part: str = ACTOR, **record) -> Path:
    """A checkpoint as the trainer leaves it."""
    hidden = path / part / checkpoints.WRITING / tag
    hidden.mkdir(parents=True)
    (hidden / "weights.pt").write_bytes(b"w" * 100)
    checkpoints.seal(hidden, int(tag.rpartition("step")[2]), record)
    checkpoints.publish(hidden, path / part / tag)
    return path / part / tag


def test_found_in_order_of_steps(tmp_path):
    for tag in ("global_step10", "global_step2", "best_global_step10"):
        write(tmp_path, tag)
    found = checkpoints.find(tmp_path)
    assert [c.folder.name for c in found] == ["global_step2", "global_step10", "best_global_step10"]
    assert [c.best for c in found] == [False, False, True]
    assert checkpoints.newest(tmp_path).folder.name == "best_global_step10", "which knows of its evaluation"
    assert checkpoints.newest(tmp_path / "nowhere") is None


def test_a_folder_in_the_writing_is_nobodys(tmp_path):
    """Killed at any moment before the rename: with or without its manifest."""
    hidden = tmp_path / ACTOR / checkpoints.WRITING / "global_step3"
    hidden.mkdir(parents=True)
    assert checkpoints.find(tmp_path) == []
    checkpoints.seal(hidden, 3, {})
    assert checkpoints.find(tmp_path) == []
    assert checkpoints.unsealed(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "gone", "garbled", "of another format"])
def test_a_damaged_one_is_passed_over(tmp_path, damage):
    write(tmp_path, "global_step1")
    folder = write(tmp_path, "global_step2")
    if damage == "cut":
        (folder / "weights.pt").write_bytes(b"w" * 99)
    elif damage == "gone":
        (folder / "weights.pt").unlink()
    elif damage == "garbled":
        (folder / checkpoints.MANIFEST).write_text("{")
    else:
        (folder / checkpoints.MANIFEST).write_text('{"format": 0, "step": 2, "files": {}}')
    assert checkpoints.newest(tmp_path).step == 1
    assert checkpoints.unsealed(tmp_path) == ["global_step2"]


def test_one_with_a_critic_needs_it(tmp_path):
    """The actor's was renamed, the critic's was not: the run goes on from the one before."""
    write(tmp_path, "global_step1", CRITIC)
    write(tmp_path, "global_step1", critic=True)
    write(tmp_path, "global_step2", critic=True)
    assert checkpoints.newest(tmp_path).step == 1


def test_written_twice_is_replaced(tmp_path):
    """A step that is taken again writes its checkpoint again."""
    write(tmp_path, "global_step1", note="first")
    folder = write(tmp_path, "global_step1", note="second")
    assert [c.record["note"] for c in checkpoints.find(tmp_path)] == ["second"]
    assert sorted(p.name for p in folder.parent.iterdir() if "old" in p.name) == []


def made(tag: str, metric: float | None = None, size: int = 10) -> Checkpoint:
    step = int(tag.rpartition("step")[2])
    return Checkpoint(Path("p", tag), step, {"files": {"w": size}, "metric_value": metric})


def gone(there, written, max_num, max_bytes=float("inf")) -> set[str]:
    return {c.folder.name for c in checkpoints.superfluous(there, Path("p", written), max_num, max_bytes)}


def test_the_oldest_without_a_metric_goes_first_then_the_worst():
    there = [made("global_step1", 0.9), made("global_step2"), made("global_step3", 0.2), made("global_step4", 0.5)]
    assert gone(there, "global_step4", 3) == {"global_step2"}
    assert gone(there, "global_step4", 2) == {"global_step2", "global_step3"}
    assert gone(there, "global_step4", 9, max_bytes=25) == {"global_step2", "global_step3"}


def test_the_one_just_written_stays_however_bad_and_however_little_is_allowed():
    there = [made("global_step1", 0.9), made("global_step2", 0.1)]
    assert gone(there, "global_step2", 1) == {"global_step1"}
    assert gone(there, "global_step2", 0, max_bytes=1) == {"global_step1"}


def test_a_new_best_replaces_the_old_one_and_counts_for_nothing_else():
    there = [made("best_global_step1"), made("global_step1"), made("global_step2"), made("best_global_step2")]
    assert gone(there, "best_global_step2", 2) == {"best_global_step1"}
    assert gone(there, "global_step2", 2) == set()


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.none() | st.floats(0, 1)), min_size=1, max_size=12, unique_by=lambda x: x[0]
    ),
    st.integers(0, 5),
    st.floats(0, 200),
)
def test_what_was_written_last_is_never_deleted(rows, max_num, max_bytes):
    there = [made(f"global_step{step}", metric) for step, metric in rows]
    last = there[-1].folder.name
    deleted = gone(there, last, max_num, max_bytes)
    assert last not in deleted
    assert len(there) - len(deleted) <= max(max_num, 1)
    assert not deleted or len(there) > max(max_num, 1) or 10 * len(there) > max_bytes


def test_changes_are_of_values_not_of_types():
    then = {"a": [1, 2], "b": 1, "c": "x", "only then": 3}
    now = {"a": (1, 2), "b": 2, "c": "y", "only now": 4}
    assert resuming.changes(then, now, ["c"]) == {"b": (1, 2), "only now": (None, 4), "only then": (3, None)}


def test_a_run_that_has_ended(tmp_path):
    assert checkpoints.finished(tmp_path) is None
    checkpoints.mark_finished(tmp_path, {"flags": {"a": 1}, "inputs": {"b": "c"}, "versions": {}})
    assert checkpoints.finished(tmp_path) == {"flags": {"a": 1}, "inputs": {"b": "c"}}
