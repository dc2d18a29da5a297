"""prepare_data: which rows are kept, that every other is counted, and what is left on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rpg_openrlhf.commands import prepare_data
from rpg_openrlhf.problems import filters, gym
from rpg_openrlhf.problems.prompt import render_prompt
from rpg_openrlhf.problems.rows import Row

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RPG_BENCHMARK_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "train").is_dir(), reason="needs the training files")

SUM, PRODUCT = "Find the value of $1 + 2$.", "Find the value of $2 \\cdot 2$."


def hub_row(problem: str, answer: str, index: str = "i") -> dict:
    """The schema of BytedTsinghua-SIA/DAPO-Math-17k."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": render_prompt(problem), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def write_parquet(path: Path, rows: list[dict], copies: int = 1) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.concat_tables([pa.Table.from_pylist(rows)] * copies), path, row_group_size=1 << 20)
    return path


def write_lines(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(folder: Path) -> dict[str, int]:
    """DATA.md's counts by reason. That they add up, to the rows on disk, is asserted here."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (folder / "DATA.md").read_text().splitlines()]
    numbers = [(name, int(n.replace(",", "")), int(after.replace(",", ""))) for name, n, after, _ in _steps(rows)]
    left = numbers[0][1]
    for _, number, after in numbers[1:]:
        left -= number
        assert left == after
    assert left == sum(len(read(path)) for path in folder.glob("*.jsonl"))
    return {name.removeprefix("dropped: "): number for name, number, _ in numbers}


def _steps(rows: list[list[str]]) -> list[list[str]]:
    table = rows[next(i for i, row in enumerate(rows) if row[:1] == ["step"]) + 2 :]
    return table[: next(i for i, row in enumerate(table) if not row)]


def prepare(tmp_path: Path, *words: object, status: int = 0) -> Path:
    folder = tmp_path / "out"
    assert prepare_data.main(["--output", str(folder), *map(str, words)]) == status
    return folder


def test_each_row_is_kept_or_counted_by_its_reason(tmp_path, capsys):
    file = write_lines(
        tmp_path / "raw.jsonl",
        {"id": "a", "problem": SUM, "answer": "3"},
        {"problem": SUM, "answer": "3.0"},
        {"problem": SUM.replace(" ", "  ").replace("$", ""), "answer": "$3$"},
        "{not json",
        "[1]",
        {"problem": "What is it?"},
        {"problem": "And this?", "answer": float("nan")},
        '{"problem": "Half \\ud800 of a pair", "answer": "1"}',
        {"text": "elsewhere", "answer": "1"},
        {"problem": "求 $1+2$ 的值", "answer": "3"},
        {"problem": PRODUCT, "answer": "4"},
        {"problem": PRODUCT + " ", "answer": "-1"},
        {"problem": "Half of one?", "answer": "\\frac12"},
        {"problem": "Half of three, as a decimal?", "answer": "1.5"},
        "",
    )
    folder = prepare(tmp_path, file, "--answers", "integer")
    assert read(folder / "train.jsonl") == [{"id": "a", "input": render_prompt(SUM), "label": "3"}]
    assert steps(folder) == {
        "read": 14,
        "is not JSON": 2,
        "is not a JSON object": 1,
        "has no answer": 1,
        "is not valid Unicode": 1,
        "has none of problem, question, prompt, input, messages": 1,
        "not English": 1,
        "exact copy of a problem before it": 2,
        "copy of one up to spacing": 1,
        "copies have different answers": 1,
        "answer is not an integer": 2,
    }
    text = (folder / "DATA.md").read_text()
    assert "raw.jsonl:4" in text, "where a bad row stands"
    assert capsys.readouterr().out == text
    assert sorted(path.name for path in folder.iterdir()) == ["DATA.md", "train.jsonl"], "no half file is left"


def test_the_hubs_schema_and_a_file_that_repeats_its_rows(tmp_path):
    rows = [hub_row(SUM, "3", "x"), hub_row(PRODUCT, "4"), hub_row("求值", "1"), hub_row("What is 1/3?", "0.333")]
    file = write_parquet(tmp_path / "raw.parquet", rows, copies=5)
    folder = prepare(tmp_path, "dapo-math-17k", "--input", file)
    assert [(row["id"], row["label"]) for row in read(folder / "train.jsonl")] == [("x", "3"), ("i", "4")]
    counts = steps(folder)
    assert (counts["read"], counts["not English"], counts["exact copy of a problem before it"]) == (20, 5, 12)
    assert counts["answer is not an integer"] == 1


def test_answers_that_no_reply_could_match_are_left_out_and_equal_ones_are_no_conflict(tmp_path):
    rows = [
        {"problem": "Half?", "answer": "\\frac{1}{2}"},
        {"problem": "Half?", "answer": "0.5"},
        {"problem": "Third?", "answer": "\\frac{1}{3}"},
        {"problem": "Third?", "answer": "0.33"},
    ]
    file = write_lines(tmp_path / "raw.jsonl", *rows)
    folder = prepare(tmp_path, file)
    assert [row["label"] for row in read(folder / "train.jsonl")] == ["\\frac{1}{2}"]
    assert steps(folder)["copies have different answers"] == 1


@pytest.mark.parametrize(
    ("answer", "plain"), [("042", "42"), ("$7$", "7"), ("1,234", "1234"), ("-3.0", "-3"), ("7/2", None), ("x", None)]
)
def test_integers(answer, plain):
    assert filters.integer(answer) == plain


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Find $x$ .", "Find x", True),
        ("\\dfrac{1}{2} is?", "\\frac{1}{2}is?", True),
        ("1.5 of it", "15 of it", False),
        ("Find $A$", "Find $a$", False),
    ],
)
def test_spacing(one, other, same):
    assert (filters.spacing_key(one) == filters.spacing_key(other)) == same


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Let α ≤ β，find “x”.", True),
        ("The point А lies on BC", True),
        ("найти x", False),
        ("かず", False),
        ("수", False),
    ],
)
def test_english_by_script(text, english):
    assert filters.is_english(text) == english


def test_decontamination_and_a_validation_part(tmp_path):
    text = (
        "A train leaves the station at noon and travels three quarters of the way to town at 60 miles per hour. When?"
    )
    rows = [{"id": i, "problem": f"What is {i} plus {i} and then some more?", "answer": str(i)} for i in range(40)]
    rows.insert(7, {"id": "seen", "problem": text.replace("A train", "A red train"), "answer": "7"})
    file = write_lines(tmp_path / "raw.jsonl", *rows)
    bench = tmp_path / "bench"
    bench.mkdir()
    write_lines(bench / "trains.jsonl", {"id": "t", "problem": text, "answer": "7"})
    folder = prepare(tmp_path, file, "--decontaminate", bench, "--validation", "5")
    assert steps(folder)["repeats a benchmark's problem"] == 1
    assert "- trains: 1" in (folder / "DATA.md").read_text()
    train, held = read(folder / "train.jsonl"), read(folder / "validation.jsonl")
    assert (len(train), len(held)) == (35, 5)
    assert not {row["id"] for row in train} & {row["id"] for row in held}
    assert held[0]["input"] == render_prompt(held[0]["problem"])
    assert held[0]["answer"] == held[0]["label"]
    # Other rows beside it, another order: a problem stays in its part.
    write_lines(file, *reversed(rows))
    again = prepare(tmp_path, file, "--decontaminate", bench, "--validation", "5", "--overwrite")
    assert sorted(row["id"] for row in read(again / "validation.jsonl")) == sorted(row["id"] for row in held)


def test_a_benchmark_named_is_found_in_a_folder_and_is_the_evaluations(tmp_path, capsys):
    from evaluation.problems.benchmarks import known
    from rpg_openrlhf.problems.benchmarks import HUB

    assert {name: (each.hub_id, each.config, each.split, each.revision) for name, each in known().items()} == HUB
    file = write_lines(tmp_path / "raw.jsonl", {"problem": SUM, "answer": "3"}, {"problem": PRODUCT, "answer": "4"})
    write_lines(tmp_path / "aime24.jsonl", {"problem": SUM, "answer": "3"})
    folder = prepare(tmp_path, file, "--decontaminate", "aime24", "--benchmark_dir", tmp_path)
    assert [row["label"] for row in read(folder / "train.jsonl")] == ["4"]
    write_lines(tmp_path / "aime24.jsonl", "{")
    prepare(tmp_path, file, "--decontaminate", "aime24", "--benchmark_dir", tmp_path, "--overwrite", status=2)
    assert "aime24.jsonl:1 is not JSON" in capsys.readouterr().err
    write_lines(tmp_path / "aime24.jsonl", "3")
    prepare(tmp_path, file, "--decontaminate", "aime24", "--benchmark_dir", tmp_path, "--overwrite", status=2)
    assert "aime24.jsonl:1 is not a JSON object" in capsys.readouterr().err
    assert len(read(folder / "train.jsonl")) == 1, "what was there stays"


def test_arithmetic_is_the_quickstarts_task(tmp_path):
    words = [sys.executable, ROOT / "examples/quickstart/arithmetic.py", "--out", tmp_path, "--rl", 30, "--heldout", 9]
    subprocess.run([*map(str, words), "--seed", "3"], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    words = ["arithmetic", "--rows", 30, "--validation", 9, "--prompt", "raw", "--seed", 3]
    folder = prepare(tmp_path, *words)
    mine = [{"input": row["input"], "label": row["label"]} for row in read(folder / "train.jsonl")]
    assert mine == read(tmp_path / "rl.jsonl")
    assert [row["id"] for row in read(folder / "validation.jsonl")] == [
        r["id"] for r in read(tmp_path / "heldout.jsonl")
    ]


def test_arithmetic_gets_harder(tmp_path):
    folder = prepare(tmp_path, "arithmetic", "--rows", "20", "--difficulty", "9")
    assert all(len(row["label"]) in (9, 10) for row in read(folder / "train.jsonl"))


class Gym:
    """What is used of reasoning-gym: sums, each of them twice, and a question that has no number for an answer."""

    @staticmethod
    def create_dataset(family: str, seed: int, size: int) -> list[dict]:
        rows = [{"question": f"{i // 2} + 1 =", "answer": i // 2 + 1} for i in range(size)]
        return [{"question": "How many?", "answer": "many"}, *rows]


def test_families_stop_at_the_rows_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gym, "_package", lambda: Gym)
    monkeypatch.setattr(gym, "version", lambda family: "0")
    folder = prepare(tmp_path, "gym:gcd", "--rows", "12", "--validation", "3")
    assert (len(read(folder / "train.jsonl")), len(read(folder / "validation.jsonl"))) == (12, 3)
    assert steps(folder) == {"read": 30, "exact copy of a problem before it": 14, "answer is not an integer": 1}


@pytest.mark.parametrize("family", gym.FAMILIES)
def test_families_have_an_integer_for_an_answer(family):
    pytest.importorskip("reasoning_gym")
    rows = [row for row, _ in zip(gym.rows(family, 5, 1, None), range(60), strict=False)]
    assert {type(row) for row in rows} == {Row}
    assert sum(filters.integer(row.answer) is not None for row in rows) >= 5


BAD = {
    "no such source": (["nope"], "SOURCE nope: must be dapo-math-17k"),
    "no such file": (["{tmp}/nope.jsonl"], "nope.jsonl: No such file"),
    "not parquet": (["{tmp}/fake.parquet"], "fake.parquet: is not a parquet file"),
    "no problem": (
        ["{tmp}/other.parquet"],
        "{tmp}/other.parquet: no row has a problem in the column(s) problem, question, prompt, input, messages; "
        "the first row has foo, answer: give --problem_key",
    ),
    "no answer": (
        ["{tmp}/other.parquet", "--problem_key", "foo", "--answer_key", "bar"],
        "no row has an answer in the column(s) bar; the first row has foo, answer: give --answer_key",
    ),
    "a file as the output": (["arithmetic", "--output", "{tmp}/raw.jsonl"], "raw.jsonl is a file; give a folder"),
    "below a file": (["arithmetic", "--output", "{tmp}/raw.jsonl/x"], "/x: {tmp}/raw.jsonl is a file; give a folder"),
    "unknown flag": (["arithmetic", "--bogus"], "unrecognized arguments: --bogus"),
    "no rows": (["arithmetic", "--rows", "0"], "--rows 0: must be at least 1"),
    "too few problems": (["arithmetic", "--rows", "900", "--difficulty", "1"], "there are only 27"),
    "digits": (["arithmetic", "--difficulty", "0"], "--difficulty 0: must be 1 to 18"),
    "difficulty of a file": (["{tmp}/raw.jsonl", "--difficulty", "2"], "--difficulty 2: only arithmetic"),
    "input of a file": (["{tmp}/raw.jsonl", "--input", "x.jsonl"], "--input x.jsonl: is only for"),
    "revision of a file": (["{tmp}/raw.jsonl", "--revision", "main"], "--revision main: nothing is read"),
    "family": (["gym:sudoku", "--rows", "5"], "gym:sudoku: must be one of"),
    "benchmark": (["{tmp}/raw.jsonl", "--decontaminate", "aime99"], "--decontaminate aime99: must be a file"),
    "benchmark folder": (["{tmp}/raw.jsonl", "--benchmark_dir", "."], "--benchmark_dir .: has no effect"),
    "all held out": (
        ["{tmp}/raw.jsonl", "--validation", "1"],
        "1 of 2 rows remain, which must be more than --validation 1 (1 is not JSON)",
    ),
}


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD.keys())
def test_refusals_are_one_line(words, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gym, "_package", lambda: Gym)
    write_lines(tmp_path / "raw.jsonl", {"problem": SUM, "answer": "3"}, "{")
    (tmp_path / "fake.parquet").write_text("not parquet at all")
    write_parquet(tmp_path / "other.parquet", [{"foo": "1", "answer": "2"}])
    folder = prepare(tmp_path, *[word.replace("{tmp}", str(tmp_path)) for word in words], status=2)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says.replace("{tmp}", str(tmp_path)) in err
    assert "is not a parquet file: SOURCE" not in err
    assert not list(folder.glob("*")), "nothing is written"


def test_flags_with_dashes_are_those_with_underscores():
    words = ["my-file.jsonl", "--problem-key", "my-key", "--answer-key=an-answer", "--benchmark_dir", "a-b"]
    args = prepare_data.build_parser().parse_args(words)
    assert (args.source, args.problem_key, args.answer_key) == ("my-file.jsonl", "my-key", "an-answer")
    assert args.benchmark_dir == Path("a-b")


def test_a_missing_package_and_an_earlier_run_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    prepare(tmp_path, "gym:gcd", status=2)
    assert "pip install reasoning-gym" in capsys.readouterr().err
    prepare(tmp_path, "arithmetic", "--rows", "5")
    prepare(tmp_path, "arithmetic", "--rows", "6", status=2)
    assert "holds train.jsonl already" in capsys.readouterr().err


def test_an_interrupted_run_leaves_no_half_file(tmp_path, monkeypatch):
    file = write_lines(tmp_path / "raw.jsonl", *({"problem": f"What is {i}?", "answer": str(i)} for i in range(9)))

    def interrupt(text):
        raise KeyboardInterrupt

    monkeypatch.setattr("rpg_openrlhf.problems.output.render_prompt", interrupt)
    folder = prepare(tmp_path, file, status=130)
    assert not list(folder.iterdir())


def test_memory_does_not_grow_with_repeated_rows(tmp_path):
    """90,000 rows of 900 problems, one row group; 1,791,700 rows in the hub's shape took 140 MiB."""
    rows = [hub_row(f"What is {i} plus one? " + "word " * 200, str(i + 1), str(i)) for i in range(900)]
    file = write_parquet(tmp_path / "raw.parquet", rows, copies=100)
    # Not ru_maxrss, which begins with what the process that started this one has used.
    code = "import re, sys; from rpg_openrlhf.commands import prepare_data; s = prepare_data.main(sys.argv[1:]);"
    code += "status = open('/proc/self/status').read();"
    code += "print(re.search(r'VmHWM:\\s*(\\d+) kB', status)[1], file=sys.stderr); sys.exit(s)"
    words = [sys.executable, "-c", code, str(file), "--output", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "out" / "train.jsonl")) == 900
    assert int(done.stderr) * 1024 < 300e6


@needs_data
def test_the_known_files(tmp_path):
    """13,513 English DAPO problems, merged before: one pair is left that differs in spacing; AIME is not in it."""
    file = DATA / "train" / "dapo_math_17k_en.jsonl"
    folder = prepare(tmp_path, "dapo-math-17k", "--input", file, "--decontaminate", DATA / "benchmarks")
    counts = steps(folder)
    assert (counts["read"], counts["copy of one up to spacing"]) == (13_513, 1)
    assert set(counts) == {"read", "copy of one up to spacing", "repeats a benchmark's problem"}
    text = (folder / "DATA.md").read_text()
    assert "amc23 (40 problems)" in text
    assert "- aime24" not in text
    assert "- aime25" not in text
