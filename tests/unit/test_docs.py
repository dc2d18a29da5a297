"""The documents: commands pass the launcher's checks, Python runs, links lead somewhere, the tree is whole."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
from pathlib import Path

import pytest

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.objectives.losses import GRADIENT_ESTIMATORS
from tests.unit.launcher_case import CONFIG, write_model, write_rows

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*DOCS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
COMMAND = "python -m rpg_openrlhf.commands.train_rpg"
# Indented too: docs/configuration.md shows its commands that way.
BASH = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(rf"^    {re.escape(COMMAND)}(?:.*\\\n)*.*", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(text: str) -> list[list[str]]:
    """The flags of every command of the launcher; a placeholder such as `[--flag value ...]` makes it a synopsis."""
    shown = [*BASH.findall(text), *INDENTED.findall(text)]
    lines = [line for block in shown for line in block.replace("\\\n", " ").splitlines() if COMMAND in line]
    return [shlex.split(line.split(COMMAND)[1], comments=True) for line in lines if "[" not in line]


EXAMPLES = [
    pytest.param(flags, id=f"{named(path)}-{i}")
    for path in DOCS
    for i, flags in enumerate(commands(path.read_text(encoding="utf-8")))
]
SNIPPETS = [
    pytest.param(code, id=f"{named(path)}-{i}")
    for path in DOCS
    for i, code in enumerate(PYTHON.findall(path.read_text(encoding="utf-8")))
]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """For what a reader has and a test has not: a model with a chat template and room for 32k tokens, and 600 rows."""
    folder = tmp_path_factory.mktemp("docs")
    model = write_model(folder / "model")
    (model / "config.json").write_text(json.dumps({**CONFIG, "max_position_embeddings": 32768}))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[0]['content'] }}"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = [{"input": f"{i}+{i}=", "label": str(2 * i)} for i in range(600)]
    return {
        "actor.model_name_or_path": str(model),
        "data.prompt_dataset": str(write_rows(folder / "train.jsonl", rows)),
        "ckpt.output_dir": str(folder / "out"),
        "ckpt.path": str(folder / "checkpoints"),
    }


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("flags", EXAMPLES)
def test_a_command_passes_the_launchers_checks(flags, stand_ins, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # its GPUs are not this machine's to count
    launched = []
    # The report of a dry run imports the stack, for half a minute; test_launcher_dry_run.py has it.
    words = [word for word in flags if word != "--dry_run"]
    words += [word for name, value in stand_ins.items() for word in (f"--{name}", value)]
    status = train_rpg.main(words, launch=lambda args: launched.append(args) or 0)
    assert (status, capsys.readouterr().err) == (0, "")
    assert len(launched) == 1


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def test_the_example_of_a_reward_grades():
    (code,) = PYTHON.findall((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    module = {}
    exec(compile(code, "snippet", "exec"), module)
    replies = {"4<|im_end|>": (1.0, 1.0, 1.0), "5<|im_end|>": (-1.0, 0.0, 1.0), "four<|im_end|>": (-1.0, 0.0, 0.0)}
    for reply, (reward, score, has_number) in replies.items():
        result = module["reward_func"]([f"2 + 2 = {reply}"], ["2 + 2 = "], ["4"])
        assert result == {"rewards": reward, "scores": score, "extra_logs": {"has_number": has_number}}


def test_the_readme_shows_every_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    lines = text.split("## The tree\n\n```text\n")[1].split("```")[0].splitlines()
    shown = [line.split()[0] if line[0] != " " else f"rpg_openrlhf/{line.split()[0]}" for line in lines]
    package = {f"{named(path.parent)}/" for path in ROOT.glob("rpg_openrlhf/*/__init__.py")}
    others = {f"{name}/" for name in ("rpg_openrlhf", "configs", "evaluation", "examples", "benchmarks", "tests")}
    assert sorted(shown) == sorted(package | others)


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_relative_links_exist(path):
    targets = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in targets if not (path.parent / link).exists()] == []


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_anchors_exist(path):
    links = re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if link[1] not in anchors(path.parent / link[0] if link[0] else path)] == []


def test_every_document_is_linked_from_the_readme():
    linked = {os.path.normpath(link) for link in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {named(path) for path in DOCS[1:]} <= linked


def test_the_oracles_table_is_whole():
    """One row for each divergence and estimator, and no error in it above the oracle's tolerance."""
    text = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
    table = text.split("<!-- oracle -->")[1].split("<!-- /oracle -->")[0]
    table = table.split("\n| the KL of whole replies")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert [tuple(row[:2]) for row in rows[2:]] == [(d, e) for d in DIVERGENCES for e in GRADIENT_ESTIMATORS]
    errors = [float(cell) for row in rows[2:] for cell in row[2:] if cell != "n/a"]
    assert len(errors) * 4 == 224, "each is the worst of four β"
    assert max(errors) < 1e-9


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_tests_named_in_documents_exist(path):
    for file, name in TEST.findall(path.read_text(encoding="utf-8")):
        assert (ROOT / file).exists(), file
        if name:
            defined = re.findall(r"^def (\w+)\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert name in defined, f"{file} has no {name}"


def test_every_difference_names_its_test():
    """What differs from paper, release and OpenRLHF: the last cell of each row is a test, or says the row above's."""
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    section = text.split("## What differs")[1].split("### Measured")[0]
    rows = [line.strip("| ").rsplit(" | ", 1)[1] for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert [cell for cell in rows if cell not in ("test", "the same") and not TEST.search(cell)] == []


def test_what_stays_upstreams_is_there():
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    section = text.split("## What stays upstream's")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ")[1:] for line in section.splitlines() if line.startswith("| ")][1:]
    file = ""
    for cell, name in rows:
        file = file if cell == "the same" else cell.strip("`")
        source = (
            importlib.metadata.distribution("openrlhf").locate_file(f"openrlhf/{file}").read_text(encoding="utf-8")
        )
        scope: list[ast.stmt] = ast.parse(source).body
        for part in name.strip("`").split("."):
            named_so = [node for node in scope if getattr(node, "name", None) == part]
            assert len(named_so) == 1, f"{file} has no {name}"
            scope = named_so[0].body
    assert len(rows) > 10


def test_the_layers_table_is_whole():
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    layers = {path.stem for path in ROOT.glob("configs/algorithm/*.yaml")}
    assert set(re.findall(r"^\| `([\w+]+)` \|", text.split("## Baselines")[0], re.MULTILINE)) == layers
