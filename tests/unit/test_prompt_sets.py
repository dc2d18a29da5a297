"""Training rows: whatever the launcher has checked is what the trainer reads, with labels as the file has them."""

import csv
import json
from decimal import Decimal
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.prompt_sets import Columns, read_sets, split_names
from rpg_openrlhf.problems.reading import Decimals, fingerprint, parse_json, rows_of
from rpg_openrlhf.problems.rows import label_text

GRADED = Columns("input", "label", "images", takes_messages=False, needs_label=True)
OWN = GRADED._replace(needs_label=False)
FLAG = "data.prompt_dataset"
LABELS = ['"2024-05-01"', "123456789012345678901234567890", "9007199254740993", "0.50", "1e5", "1E+3", '"NA"', '"007"']


def read(path, columns=GRADED):
    (part,) = read_sets(FLAG, str(path), "train", columns, trust_remote_code=False)
    return part.rows


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_labels_are_the_text_of_the_file(tmp_path):
    lines = [f'{{"input": "x", "label": {label}}}' for label in LABELS]
    assert [row["label"] for row in read(write(tmp_path / "a.jsonl", lines))] == [label.strip('"') for label in LABELS]
    array = tmp_path / "a.json"
    array.write_text("[" + ",".join(lines) + "]", encoding="utf-8")
    assert [row["label"] for row in read(array)] == [label.strip('"') for label in LABELS]


def test_the_trainer_reads_the_same_labels(tmp_path):
    from rpg_openrlhf.training.data_sets import blending_datasets

    lines = [f'{{"input": "x{i}", "label": {label}}}' for i, label in enumerate(LABELS)]
    path = str(write(tmp_path / "a.jsonl", lines))
    data = SimpleNamespace(input_key="input", label_key="label", image_key="images", apply_chat_template=False)
    strategy = SimpleNamespace(args=SimpleNamespace(data=data, trust_remote_code=False))
    both = blending_datasets(f"{path},{path}", None, strategy, max_count=5)
    assert both["label"][:5] == both["label"][5:] == [label.strip('"') for label in LABELS[:5]]
    mixed = blending_datasets(f"{path},{path}", "0.5,0.5", strategy, seed=3)
    assert set(mixed["label"]) == {label.strip('"') for label in LABELS}


def test_csv_and_parquet(tmp_path):
    with (tmp_path / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["input", "label"], ["a", "NA"], ["b", "None"], ["c", "1.50"]])
    assert [row["label"] for row in read(tmp_path / "a.csv")] == ["NA", "None", "1.50"]
    table = pyarrow.table({"input": ["a", "b"], "label": [Decimal("1.50"), Decimal("27")]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [row["label"] for row in read(tmp_path / "a.parquet")] == ["1.50", "27.00"]


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path, mark):
    path = tmp_path / "a.jsonl"
    path.write_text(mark + '{"input": "a", "label": "1"}\n', encoding="utf-8")
    assert read(path) == [{"input": "a", "label": "1"}]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"input": "a", "label": null}', ":151: 'label' must be the gold answer, not None"),
        ('{"input": "a", "label": ""}', ":151: 'label' must be the gold answer, not ''"),
        ('{"input": "a", "label": ["8", "9"]}', ":151: 'label' must be the gold answer"),
        ('{"input": "a", "label": {"a": 1}}', ":151: 'label' must be the gold answer"),
        ('{"input": "a", "label": true}', ":151: 'label' must be the gold answer, not True"),
        ('{"input": "a", "label": NaN}', ":151 is not JSON"),
        ('{"input": "a"}', "--data.label_key label: .*:151 has no such column; it has input"),
        ('{"input": "", "label": "1"}', ":151: 'input' is empty"),
        ('{"input": null, "label": "1"}', ":151: 'input' must be a text, not NoneType"),
        ('{"input": "a", "label": "1"', ":151 is not JSON"),
        ("[1]", ":151 is not an object of columns but a list"),
    ],
)
def test_every_row_is_read(tmp_path, row, says):
    """Also those after the first hundred."""
    lines = ['{"input": "a", "label": "1"}'] * 150 + [row]
    with pytest.raises(Refusal, match=says):
        read(write(tmp_path / "a.jsonl", lines))


def test_csv_rows_of_other_widths_are_named(tmp_path):
    with pytest.raises(Refusal, match=r"a.csv:3 has more or fewer fields than the header"):
        read(write(tmp_path / "a.csv", ["input,label", "a,1", "b,2,3"]))


def test_a_reward_of_the_users_gets_its_labels_as_text(tmp_path):
    lines = ['{"input": "a", "label": null}', '{"input": "a", "label": ["8", 9]}', '{"input": "a", "label": 7}']
    assert [row["label"] for row in read(write(tmp_path / "a.jsonl", lines), OWN)] == ["", '["8", 9]', "7"]


def test_paths_with_commas_and_at_signs(tmp_path):
    odd = tmp_path / "me@site, and more" / "a.jsonl"
    odd.parent.mkdir()
    write(odd, ['{"input": "a", "label": "1"}'])
    assert split_names(f"{odd},org/name@part, {odd}") == [(str(odd), None), ("org/name", "part"), (str(odd), None)]
    assert read(odd) == [{"input": "a", "label": "1"}]


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_numbers_keep_their_digits(number):
    assert label_text(parse_json(str(number))) == str(number)


def test_decimals_are_numbers():
    assert Decimals("0.50") == 0.5
    assert json.dumps(Decimals("0.50")) == "0.5"


def test_fingerprints_follow_content(tmp_path, monkeypatch):
    from rpg_openrlhf.problems import reading

    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 64)
    for whole in (1 << 20, 1 << 10):
        monkeypatch.setattr(reading, "WHOLE_BYTES", whole)
        monkeypatch.setattr(reading, "BLOCK_BYTES", 512)
        before = fingerprint(path)
        assert fingerprint(path) == before
        content = bytearray(path.read_bytes())
        content[700] ^= 1
        path.write_bytes(content)
        assert fingerprint(path) != before
    folder = fingerprint(tmp_path)
    (tmp_path / "more").touch()
    assert fingerprint(tmp_path) != folder


def test_a_csv_file_that_cannot_be_read_on_is_refused(tmp_path):
    """No row after a quote that nobody closed can be told apart: none is left out in silence."""
    path = tmp_path / "bad.csv"
    path.write_text('problem,answer\n1+1,2\n"2+2"x,4\n3+3,6\n')
    with pytest.raises(Refusal, match=r"--input .*bad.csv:\d is not CSV: .*; correct it"):
        list(rows_of(path, "--input"))


def test_a_list_longer_than_a_files_name_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"train-shard-{number:05d}-of-00012.jsonl" for number in range(12)]
    for name in names:
        (tmp_path / name).touch()
    assert split_names(",".join(names)) == [(name, None) for name in names]
