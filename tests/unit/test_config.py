"""Our flags, and YAML layers as flags."""

import pytest

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import own_flags
from rpg_openrlhf.settings.layers import flatten, merged, nest, read_layer
from rpg_openrlhf.settings.parser import parse


def test_defaults_are_the_published_setting_of_rpg_reinforce_urkl():
    values = parse([]).values
    expected = {
        "algo.objective": "rpg", "rpg.divergence": "urkl", "rpg.gradient_estimator": "reinforce", "rpg.beta": 1e-4,
        "rpg.importance_level": "token", "rpg.old_policy": "recompute", "ref.refresh": "rollout", "platform": "auto",
        "trust_remote_code": False, "logger.run_dir": None,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected


def test_every_flag_has_its_default_and_one_sentence():
    values = parse([]).values
    for flag in own_flags.FLAGS:
        assert values[flag.name] == flag.default
        assert flag.sentence.endswith(".")
        assert "\n" not in flag.sentence
    assert len(own_flags.FLAGS) == 33


@pytest.mark.parametrize("flag", [f for f in own_flags.FLAGS if f.choices], ids=lambda f: f.name)
def test_unknown_choice_names_flag_and_choices(flag, tmp_path):
    choices = ", ".join(map(repr, flag.choices))
    with pytest.raises(Refusal, match=rf"--{flag.name}: invalid choice: 'nonsense' \(choose from {choices}\)"):
        parse([f"--{flag.name}", "nonsense"])
    with pytest.raises(Refusal, match=rf"key {flag.name}: invalid choice: 'nonsense' \(choose from {choices}\)"):
        parse(["--config", layer(tmp_path, f"{flag.name}: nonsense")])


def layer(tmp_path, text, name="a.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_nested_and_dotted_keys_mean_the_same(tmp_path):
    nested = layer(tmp_path, "rpg: {divergence: fkl}\nactor: {adam: {lr: 1e-6}}\n")
    dotted = layer(tmp_path, "rpg.divergence: fkl\nactor.adam: {lr: 1e-6}\n", "b.yaml")
    assert read_layer(nested) == read_layer(dotted) == {"rpg.divergence": "fkl", "actor.adam.lr": 1e-6}


def test_scalars_are_what_they_look_like(tmp_path):
    text = "a: off\nb: 1e-6\nc: 1.5E+3\nd: true\ne: no\nf: -1\ng: 2024-01-01\nh: 1e\ni: '1e-6'\nj: .inf\n"
    read = read_layer(layer(tmp_path, text))
    assert read == {
        "a": "off", "b": 1e-6, "c": 1500.0, "d": True, "e": "no", "f": -1, "g": "2024-01-01", "h": "1e", "i": "1e-6",
        "j": float("inf"),
    }  # fmt: skip


def test_later_layer_wins_and_null_survives_to_restore_the_default(tmp_path):
    first = layer(tmp_path, "rpg: {beta: 1, divergence: fkl}\n")
    second = layer(tmp_path, "rpg: {beta: null}\n", "b.yaml")
    assert merged(map(read_layer, (first, second))) == {"rpg.beta": None, "rpg.divergence": "fkl"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rpg: {beta: 1, beta: 2}", "'beta' is given twice"),
        ("rpg: {beta: 1}\nrpg.beta: 2", "'rpg.beta' is given twice"),
        ("- a\n- b", "must be a mapping"),
        ("rpg: [", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML"),
    ],
)
def test_bad_layer_is_refused_in_one_line(tmp_path, text, says):
    path = layer(tmp_path, text)
    with pytest.raises(Refusal, match=says) as refusal:
        read_layer(path)
    assert path in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_layer_and_empty_layer(tmp_path):
    with pytest.raises(Refusal, match="cannot be read: No such file"):
        read_layer(str(tmp_path / "none.yaml"))
    assert read_layer(layer(tmp_path, "# only a comment\n")) == {}


def test_nest_is_the_inverse_of_flatten():
    flat = {"a.b.c": 1, "a.b.d": [1, 2], "a.e": None, "f": "x"}
    assert flatten(nest(flat)) == flat
