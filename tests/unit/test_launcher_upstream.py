"""What the launcher takes from upstream's source: the shape it relies on, every flag, and the validation."""

import argparse
import ast
import importlib.metadata
import subprocess
import sys

import pytest

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings import upstream


def test_upstream_has_the_version_and_shape_we_read():
    assert importlib.metadata.version("openrlhf") == upstream.VERSION
    before, after = upstream.main_block()
    assert ast.unparse(before[0]) == "parser = argparse.ArgumentParser()"
    assert ast.unparse(after[1]) == "args = hierarchize(args)", "upstream validates something before it nests the args"


def test_another_shape_is_refused_with_the_version_to_install(tmp_path, monkeypatch):
    package = tmp_path / "openrlhf" / "cli"
    package.mkdir(parents=True)
    (tmp_path / "openrlhf" / "__init__.py").touch()
    (package / "train_ppo_ray.py").write_text("if __name__ == '__main__':\n    main()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openrlhf", raising=False)
    with pytest.raises(Refusal, match=f"install openrlhf=={upstream.VERSION}"):
        upstream.main_block()


def test_every_upstream_flag_keeps_its_name_default_and_type():
    theirs, ours = flags.by_flag(upstream.build_parser()), flags.by_flag(flags.build_parser())
    assert len(theirs) > 150
    for name, action in theirs.items():
        mine = ours[name]
        assert (mine.dest, mine.nargs, mine.type, mine.const) == (action.dest, action.nargs, action.type, action.const)
        assert mine.default == action.default
        assert set(action.choices or ()) <= set(mine.choices or ())


def test_only_three_choices_are_added_to_upstreams():
    theirs, ours = flags.by_flag(upstream.build_parser()), flags.by_flag(flags.build_parser())
    added = {n: set(ours[n].choices or ()) - set(a.choices or ()) for n, a in theirs.items()}
    assert {n: c for n, c in added.items() if c} == {
        "algo.advantage.estimator": {"none"},
        "ds.param_dtype": {"fp32"},
        "actor.optim": {"schedulefree"},
    }


def namespace(**changes):
    return argparse.Namespace(**{**flags.parse(["--vllm.num_engines", "1"]).values, **changes})


def test_upstreams_validation_runs_on_our_namespace():
    changes = {"reward.remote_url": "a.py,b.py", "train.dynamic_batch_enable": True, "rollout.n_samples_per_prompt": 2}
    args, notes = upstream.validate(namespace(**changes, **{"algo.advantage.estimator": "rloo"}))
    assert args.reward.remote_url == ["a.py", "b.py"]
    assert args.actor.eps_clip_low_high == (0.2, 0.2)
    assert args.ds.packing_samples
    assert args.rollout.vllm_generate_batch_size == args.rollout.batch_size
    assert any("packing_samples" in note for note in notes), "upstream's prints are kept as notes"


def test_upstreams_assertion_is_a_refusal():
    changes = {"train.partial_rollout_enable": True, "algo.advantage.estimator": "reinforce"}
    with pytest.raises(Refusal, match=r"OpenRLHF refuses: .*requires --train\.async_enable"):
        upstream.validate(namespace(**changes))


def test_the_command_line_imports_nothing_heavy():
    code = (
        "import sys; from rpg_openrlhf.commands import train_rpg; from rpg_openrlhf.settings import parser\n"
        "parser.parse([])\n"
        "heavy = {'torch', 'transformers', 'ray', 'vllm', 'deepspeed', 'datasets', 'openrlhf.models'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
