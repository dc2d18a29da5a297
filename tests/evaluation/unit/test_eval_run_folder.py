"""Whether an output folder may be gone on with."""

import copy
import json

import pytest

from evaluation.run_folder import FolderError, prepare, read_rows

DESCRIBED = {
    "label": "a",
    "model": {"name": "m", "hash": "h", "step": None, "kind": "checkpoint", "checkpoint": "/m"},
    "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 9, "seed": 0, "dtype": "auto"},
    "prompt": {"style": "dapo", "chat_template": True, "system": None, "template": "t", "template_hash": "th"},
    "n": 4,
    "limit": None,
    "benchmarks": {"one": {"sha256": "x", "source": "one.jsonl"}},
}
ROWS = [{"benchmark": "one", "problem": "p", "prompt": "q"}]


def change(path, value):
    described = copy.deepcopy(DESCRIBED)
    node = described
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return described


def settings(folder):
    return json.loads((folder / "settings.json").read_text(encoding="utf-8"))


def test_a_new_folder(tmp_path):
    prepare(tmp_path / "a" / "b", copy.deepcopy(DESCRIBED), list(ROWS))
    assert settings(tmp_path / "a" / "b") == DESCRIBED
    assert read_rows(tmp_path / "a" / "b" / "problems.jsonl") == ROWS


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("model", "hash"), "other", "model m (sha256 h) there, m (sha256 other) now"),
        (("sampling", "temperature"), 0.6, "temperature 1.0 there, 0.6 now"),
        (("sampling", "seed"), 1, "seed 0 there, 1 now"),
        (("prompt", "template_hash"), "other", "prompt dapo there"),
        (("prompt", "system"), "S", "system None there, 'S' now"),
        (("benchmarks", "one", "sha256"), "other", "one one.jsonl (sha256 x) there, one.jsonl (sha256 other) now"),
    ],
)
def test_what_changes_the_samples_is_refused(tmp_path, path, value, said):
    prepare(tmp_path, copy.deepcopy(DESCRIBED), list(ROWS))
    with pytest.raises(FolderError, match="samples of other settings") as refusal:
        prepare(tmp_path, change(path, value), list(ROWS))
    assert said in str(refusal.value)
    assert settings(tmp_path) == DESCRIBED


def test_a_prompt_that_renders_otherwise_is_refused(tmp_path):
    """A chat template may write today's date."""
    prepare(tmp_path, copy.deepcopy(DESCRIBED), list(ROWS))
    with pytest.raises(FolderError, match="prompt of p is rendered differently"):
        prepare(tmp_path, copy.deepcopy(DESCRIBED), [ROWS[0] | {"prompt": "another day"}])


@pytest.mark.parametrize("flag", ["n", "limit"])
def test_counts_of_kept_benchmarks_do_not_change(tmp_path, flag):
    prepare(tmp_path, copy.deepcopy(DESCRIBED), list(ROWS))
    other = change(("benchmarks",), {"two": {"sha256": "y", "source": "two.jsonl"}}) | {flag: 9}
    with pytest.raises(FolderError, match=f"holds one with --{flag}"):
        prepare(tmp_path, other, [{"benchmark": "two", "problem": "p", "prompt": "q"}])


def test_settings_of_something_else(tmp_path):
    (tmp_path / "settings.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FolderError, match="is not the settings of a run"):
        prepare(tmp_path, copy.deepcopy(DESCRIBED), list(ROWS))


@pytest.mark.parametrize(
    ("path", "value"), [(("n",), 8), (("limit",), 1), (("label",), "b"), (("model", "checkpoint"), "/moved")]
)
def test_what_does_not_is_taken_over(tmp_path, path, value):
    prepare(tmp_path, copy.deepcopy(DESCRIBED), list(ROWS))
    prepare(tmp_path, change(path, value), list(ROWS))
    assert settings(tmp_path) == change(path, value)


def test_benchmarks_are_added_to_those_there(tmp_path):
    prepare(tmp_path, copy.deepcopy(DESCRIBED), list(ROWS))
    more = [{"benchmark": "two", "problem": "p", "prompt": "q"}]
    prepare(tmp_path, change(("benchmarks",), {"two": {"sha256": "y", "source": "two.jsonl"}}), list(more))
    assert list(settings(tmp_path)["benchmarks"]) == ["one", "two"]
    assert read_rows(tmp_path / "problems.jsonl") == ROWS + more


def test_samples_of_unknown_origin_are_left_alone(tmp_path):
    (tmp_path / "samples.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(FolderError, match="samples without settings"):
        prepare(tmp_path, copy.deepcopy(DESCRIBED), list(ROWS))
