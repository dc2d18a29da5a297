"""samples.jsonl survives a kill at any byte."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.sampling.sampler import seed_of
from evaluation.store import SampleStore, StoreError, read_json, write_json, write_text


def row(problem, sample, text="x"):
    return {
        "benchmark": "b",
        "problem": problem,
        "sample": sample,
        "seed": 1,
        "text": text,
        "tokens": 3,
        "finish_reason": "stop",
    }


def stored(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, 400), text=st.text(max_size=20))
def test_a_file_cut_anywhere_is_repaired(tmp_path_factory, cut, text):
    folder = tmp_path_factory.mktemp("store")
    rows = [row("p", sample, text) for sample in range(4)]
    store = SampleStore(folder)
    store.append(rows)
    store.close()
    path = folder / "samples.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    store = SampleStore(folder)
    whole = content[:cut].count(b"\n")
    assert store.done == {("b", "p", sample) for sample in range(whole)}
    store.append(rows)  # the missing ones alone are added
    store.close()
    assert stored(folder) == rows


def test_one_writer_at_a_time(tmp_path):
    store = SampleStore(tmp_path)
    with pytest.raises(StoreError, match="another process"):
        SampleStore(tmp_path)
    store.close()
    SampleStore(tmp_path).close()


def test_a_line_in_the_middle_that_is_no_sample_is_named(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"benchmark": "b"}\n', encoding="utf-8")
    with pytest.raises(StoreError, match=r"samples\.jsonl:1 is not a sample"):
        SampleStore(tmp_path)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    store = SampleStore(tmp_path)
    store.append([row("p", 0)])
    with open("/dev/full", "wb") as full:
        whole, store.file = store.file, full
        with pytest.raises(OSError, match=r"^/.*samples.jsonl: No space left on device; what is finished is kept"):
            store.append([row("p", 1, "y" * 100_000)])
        store.file = whole
    assert store.done == {("b", "p", 0)}
    store.close()
    assert stored(tmp_path) == [row("p", 0)]


def test_whole_files_or_none(tmp_path):
    write_json(tmp_path / "a.json", {"ä": "\ud800"})
    assert read_json(tmp_path / "a.json") == {"ä": "\ud800"}
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "\ud800")
    assert read_json(tmp_path / "a.json") == {"ä": "\ud800"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@given(
    st.lists(st.tuples(st.integers(), st.text(), st.text(), st.integers(0, 99)), min_size=2, max_size=9, unique=True)
)
def test_seeds_depend_on_their_own_sample_alone(keys):
    seeds = [seed_of(*key) for key in keys]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [seed_of(*key) for key in reversed(keys)] == seeds[::-1]


def test_seeds_differ_between_samples():
    seeds = {seed_of(0, "aime24", f"p{problem}", sample) for problem in range(30) for sample in range(32)}
    assert len(seeds) > 955  # 960 draws of 31 bits


def test_a_seed_never_changes():
    """Published runs must stay reproducible."""
    assert seed_of(0, "aime24", "aime24-I-01", 0) == 1476244524
