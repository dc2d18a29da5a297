"""Flags, YAML under them, and one-line refusals."""

import pytest

from evaluation import settings


def parse(*flags, model=("--model", "m")):
    return settings.parse([*model, "--output", "out", *flags])


def refusal(capsys, *flags, model=("--model", "m")):
    with pytest.raises(SystemExit) as ending:
        parse(*flags, model=model)
    assert ending.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("evaluation.run: error: ")
    assert message.count("\n") == 1
    return message


def test_the_defaults_are_the_papers():
    found = parse()
    assert found.benchmarks == ("aime24", "aime25", "amc23")
    assert (found.n, found.temperature, found.top_p, found.top_k, found.max_tokens) == (32, 1.0, 1.0, -1, 4096)
    assert found.prompt == "dapo"


def test_yaml_under_the_command_line(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(
        "n: 4\nbenchmarks: [amc23, amc23]\nmax_tokens: 77\nchat-template: false\nlimit:\n", encoding="utf-8"
    )
    found = parse("--config", str(path), "--n", "2")
    assert (found.n, found.benchmarks, found.max_tokens, found.chat_template) == (2, ("amc23",), 77, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("temprature: 1", "did you mean 'temperature'"),
        ("n: many", "--n: must be a whole number from 1, not 'many'"),
        ("- 1", "must be a mapping"),
        ("{", "--config"),
    ],
)
def test_yaml_that_is_wrong(capsys, tmp_path, text, said):
    path = tmp_path / "e.yaml"
    path.write_text(text, encoding="utf-8")
    assert said in refusal(capsys, "--config", str(path))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--n", "0"], "--n: must be a whole number from 1, not '0'"),
        (["--temperature", "-1"], "--temperature"),
        (["--temperature", "nan"], "--temperature"),
        (["--temperature", "inf"], "--temperature"),
        (["--top-p", "0"], "above 0 and at most 1"),
        (["--top-k", "0"], "-1 (all tokens)"),
        (["--temperature", "0"], "add --n 1"),
        (["--data-dir", "nowhere"], "--data-dir nowhere does not exist"),
        (["--train-data", "nowhere"], "--train-data nowhere does not exist"),
        (["--watch"], "--watch goes with --checkpoints"),
        (["--start", "m"], "--start goes with --checkpoints"),
        (["--server", "localhost:8000"], "http://"),
        (["--server", "http://h/v1", "--dp", "2"], "--dp"),
        (["--system", "s", "--no-chat-template"], "--system"),
        (["--checkpoints", "x"], "not both"),
        (["--max_token", "4"], "unrecognized arguments: --max_token"),
        (["--output", __file__], "test_eval_settings.py is a file: give a folder"),
        (["--output", f"{__file__}/x"], "test_eval_settings.py is a file: give a folder"),
    ],
)
def test_refusals(capsys, flags, said):
    assert said in refusal(capsys, *flags)


def test_flags_with_underscores_are_those_with_dashes():
    found = parse("--max_tokens", "7", "--top_p=0.5", "--no-chat_template", "--data_dir", ".", "--label=a_b")
    assert (found.max_tokens, found.top_p, found.chat_template, found.label) == (7, 0.5, False, "a_b")


def test_something_must_be_evaluated(capsys):
    assert "give --model" in refusal(capsys, model=())


def test_every_field_is_a_flag():
    known = {action.dest for action in settings.build_parser()._actions}
    assert known - {"help"} == set(settings.Settings.__dataclass_fields__)
