"""Every layer under configs/ parses, passes the checks in the combinations it is made for, and means what it says."""

import json
from pathlib import Path

import pytest

from examples.comparison.studies import OBJECTIVE
from examples.comparison.train import LAYERS as COMPARED
from rpg_openrlhf.commands import tables, train_rpg
from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import checks
from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings.arguments import arguments
from rpg_openrlhf.settings.layers import merged, read_layer
from rpg_openrlhf.settings.saved import as_yaml, resolved
from tests.unit.launcher_case import CONFIG, settings_of, write_model, write_rows

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALGORITHMS = sorted((CONFIGS / "algorithm").glob("*.yaml"))
BASE, QUICKSTART = CONFIGS / "base.yaml", CONFIGS / "debug" / "quickstart_cpu.yaml"


def args_of(*layers: Path, platform: str = "cpu", more: list[str] | None = None):
    config = ",".join(map(str, layers))
    words = ["--config", config, "--actor.model_name_or_path", "model", "--data.prompt_dataset", "problems"]
    settings = settings_of(*words, "--platform", platform, *(more or []))
    checks.check(settings)
    return arguments(settings)[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda p: p.stem)
@pytest.mark.parametrize("base", [BASE, QUICKSTART], ids=lambda p: p.stem)
def test_every_combination_passes_the_checks(base, algorithm):
    args = args_of(base, algorithm)
    assert args.algo.objective == ("rpg" if is_rpg(algorithm) else "openrlhf")
    samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    assert samples // args.train.batch_size == (16 if base == BASE else samples // args.train.batch_size) > 1


AXES = ("context", "clip", "learning_rate", "optimizer", "hardware")
OF_RPG = ("beta", "reference")


@pytest.fixture(autouse=True)
def in_a_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # its GPUs are not this machine's to count


def layers_of(*axes: str) -> list[Path]:
    return [path for axis in axes for path in sorted((CONFIGS / axis).glob("*.yaml"))]


def is_rpg(algorithm: Path) -> bool:
    return algorithm.stem.startswith("rpg") or algorithm.stem == "cispo"


def refusal_of(layer: Path, algorithm: Path) -> str | None:
    """Layers that say something of RPG's KL go only where there is one."""
    without_kl = algorithm.stem in ("rpg_reinforce_as_released", "cispo")
    if layer.parent.name == "reference" and algorithm.stem == "dapo":
        return "no reference is used with --algo.kl.init_coef 0"
    if named(layer) == "reference/rollout" and algorithm.stem == "reinforce++":
        return "cannot act without a KL in the loss"
    if layer.parent.name in OF_RPG and layer.parent.name != "reference" and not is_rpg(algorithm):
        return "has no effect with --algo"
    return "no reference is used with --rpg.beta 0" if named(layer) == "reference/fixed" and without_kl else None


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("layer", layers_of(*AXES, *OF_RPG), ids=named)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda p: p.stem)
def test_a_layer_goes_with_any_algorithm(algorithm, layer):
    """Those of RPG alone are refused over the others, with the reason."""
    platform = "cpu" if layer.stem == "cpu" else "cuda"
    if reason := refusal_of(layer, algorithm):
        with pytest.raises(Refusal, match=reason):
            args_of(BASE, algorithm, layer, platform=platform)
        return
    args = args_of(BASE, *_in_order(algorithm, layer), platform=platform)
    for name, value in read_layer(str(layer)).items():
        taken_out = name == "reward.overlong_buffer_len" and algorithm.stem.startswith("grpo")
        if not taken_out and name != "actor.lr_scheduler":  # Schedule-Free's own warm-up makes it constant
            node = args
            for part in name.split("."):
                node = getattr(node, part)
            assert node == value, f"{name} acts"


def _in_order(algorithm: Path, layer: Path) -> list[Path]:
    """A context comes before the algorithm, which may take its penalty out; everything else after."""
    return [layer, algorithm] if layer.parent.name == "context" else [algorithm, layer]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """For the model, its weights and its 4,096 positions (Qwen2.5-Math-7B), and for the data."""
    folder = tmp_path_factory.mktemp("tables")
    model = write_model(folder / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[0]['content'] }}"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = [{"input": f"{i}+{i}=", "label": str(2 * i)} for i in range(600)]
    words = ["--actor.model_name_or_path", str(model)]
    words += ["--data.prompt_dataset", str(write_rows(folder / "train.jsonl", rows))]
    return model, [*words, "--ckpt.output_dir", str(folder / "out"), "--ckpt.path", str(folder / "out")]


POSITIONS = {"qwen3_4b": 40_960, "qwen2.5_7b_instruct": 32_768, "qwen2.5_math_7b": 4_096}
RUNS = {run.name: run for table in tables.read()["tables"] for run in tables.runs(table)}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_every_run_of_every_table_would_start(run, stand_ins, capsys):
    """Through the launcher, up to where it would start; --dry_run makes the same checks and then imports the stack."""
    model, words = stand_ins
    positions = next((n for name, n in POSITIONS.items() if f"model/{name}" in run.layers), 256)
    (model / "config.json").write_text(json.dumps({**CONFIG, "max_position_embeddings": positions}))
    layers = ",".join(str(CONFIGS / f"{layer}.yaml") for layer in run.layers)
    started = []
    status = train_rpg.main(["--config", layers, *words], launch=lambda args: started.append(args) or 0)
    assert (status, capsys.readouterr().err) == (0, "")
    assert len(started) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_4b-8k/RPG-REINFORCE-URKL", "qwen2.5_math_7b-2k/GRPO"])
def test_dry_run_of_a_tables_run(name, stand_ins, capsys):
    """All of it, with the model's positions and the shapes of a small one."""
    test_every_run_of_every_table_would_start(RUNS[name], stand_ins, capsys)
    layers = ",".join(str(CONFIGS / f"{layer}.yaml") for layer in RUNS[name].layers)
    assert train_rpg.main(["--config", layers, *stand_ins[1], "--platform", "cuda", "--dry_run"]) == 0
    assert "nothing was started" in capsys.readouterr().out


def test_tables_name_the_published_methods():
    found = {name: [run.method for run in tables.runs(name)] for name in tables.read()["tables"]}
    assert {name: len(found[name]) for name in "35678"} == {"3": 6, "5": 8, "6": 6, "7": 8, "8": 12}
    assert [(run.name, run.layers) for run in tables.runs("7")] == [(run.name, run.layers) for run in tables.runs("5")]
    assert {run.evaluation for run in tables.runs("7")} == {"--benchmarks minerva_math olympiadbench"}
    ablations = [*found["figure8"], *found["figure9"], *found["schedulefree"]]
    variants = {variant for method in ablations for variant in method.split("+")[1:]}
    assert variants == set(tables.read()["variants"])
    assert len({run.name for run in RUNS.values()}) == len({tuple(run.layers) for run in RUNS.values()})


def test_every_layer_of_a_table_exists():
    for run in RUNS.values():
        assert all((CONFIGS / f"{layer}.yaml").is_file() for layer in run.layers)


def test_tables_are_listed_and_refused_in_one_line(capsys):
    assert tables.main([]) == 0
    assert "Qwen3-4B, 8K context" in capsys.readouterr().out
    assert tables.main(["3", "--hardware", "hardware/8xh200"]) == 0
    assert (
        "every run: base + data/dapo_math_17k + model/qwen3_4b + context/8k + hardware/8xh200"
        in capsys.readouterr().out
    )
    assert tables.main(["3", "--hardware", "hardware/none"]) == 2
    assert capsys.readouterr().err.startswith("tables: --hardware hardware/none: ")
    assert tables.main(["9"]) == 2
    assert capsys.readouterr().err == f"tables: TABLE 9: must be one of {', '.join(tables.read()['tables'])}\n"


@pytest.mark.parametrize("path", sorted(set(CONFIGS.rglob("*.yaml")) - {CONFIGS / tables.TABLES}), ids=named)
def test_every_layer_parses_alone(path):
    flags.parse(["--config", str(path)])


def test_quickstart_and_algorithms_may_come_in_either_order():
    mine = set(read_layer(str(QUICKSTART)))
    for algorithm in ALGORITHMS:
        theirs = read_layer(str(algorithm))
        assert not mine & set(theirs), algorithm.stem


@pytest.mark.parametrize(
    ("name", "divergence", "estimator"),
    [
        ("rpg_fkl", "fkl", "differentiable"),
        ("rpg_rkl", "rkl", "differentiable"),
        ("rpg_urkl", "urkl", "differentiable"),
        ("rpg_ufkl", "ufkl", "differentiable"),
        *((f"rpg_reinforce_{name}", name, "reinforce") for name in ("fkl", "rkl", "urkl", "ufkl")),
        ("rpg_reinforce_as_released", "none", "differentiable"),
    ],
)
def test_rpg_layers(name, divergence, estimator):
    args = args_of(BASE, CONFIGS / "algorithm" / f"{name}.yaml")
    assert (args.rpg.gradient_estimator, args.rpg.clip_mode) == (estimator, "gate")
    assert args.rpg.beta == 0 if divergence == "none" else (args.rpg.divergence, args.rpg.beta) == (divergence, 1e-4)
    assert (args.algo.advantage.estimator, args.actor.eps_clip_low_high, args.actor.dual_clip) == (
        "dr_grpo",
        [0.2, 0.28],
        10,
    )
    assert args.algo.kl.init_coef == 0, "no reference model"
    assert args.algo.dynamic_filtering_enable
    assert args.reward.overlong_buffer_len == args.rollout.max_new_tokens / 4


@pytest.mark.parametrize(
    ("name", "estimator", "kl", "clip", "filtering", "aggregation"),
    [
        ("grpo", "group_norm", ("k3", 0.04, True), [0.2, 0.2, None], False, "seq-mean-token-mean"),
        ("grpo_as_released", "group_norm", ("k3", 1e-3, True), [0.2, 0.2, 10], False, "token-mean"),
        ("k3_loss", "dr_grpo", ("k3", 1e-3, True), [0.2, 0.28, 10], True, "token-mean"),
        ("dapo", "group_norm", ("k1", 0, False), [0.2, 0.28, 10], True, "token-mean"),
        ("reinforce++", "reinforce", ("k1", 1e-4, False), [0.2, 0.2, None], True, "token-mean"),
        ("reinforce++_as_released", "reinforce", ("k1", 1e-4, True), [0.2, 0.28, 10], True, "token-mean"),
        ("reinforce++_baseline", "reinforce_baseline", ("k2", 1e-5, True), [0.2, 0.2, None], True, "token-mean"),
        ("reinforce++_baseline_as_released", "reinforce_baseline", ("k1", 1e-4, True), [0.2, 0.28, 10], True,
         "token-mean"),
    ],
)  # fmt: skip
def test_baseline_layers(name, estimator, kl, clip, filtering, aggregation):
    args = args_of(BASE, CONFIGS / "algorithm" / f"{name}.yaml")
    assert args.algo.advantage.estimator == estimator
    assert (args.ref.refresh == "rollout") == (name.startswith("reinforce++") and name.endswith("_as_released"))
    coefficient = args.ref.kl_to_old if args.ref.refresh == "rollout" else args.algo.kl.init_coef
    assert (args.algo.kl.estimator, coefficient, args.algo.kl.use_loss) == kl
    assert [*args.actor.eps_clip_low_high, args.actor.dual_clip] == clip
    assert args.algo.dynamic_filtering_enable == filtering
    assert args.actor.loss_agg_mode == aggregation
    assert (args.reward.overlong_buffer_len is None) == name.startswith("grpo")


def test_cispo():
    args = args_of(BASE, CONFIGS / "algorithm" / "cispo.yaml")
    assert (args.rpg.gradient_estimator, args.rpg.clip_mode, args.rpg.beta) == ("reinforce", "truncate", 0)
    assert [*args.actor.eps_clip_low_high, args.actor.dual_clip] == [1, 0.28, 1.28]
    assert args.algo.advantage.estimator == "group_norm"


@pytest.mark.parametrize(("name", "budget"), [("2k", 2048), ("4k", 4096), ("8k", 8192)])
def test_contexts(name, budget):
    args = args_of(BASE, CONFIGS / "context" / f"{name}.yaml", CONFIGS / "algorithm" / "rpg_urkl.yaml")
    assert args.rollout.max_new_tokens == budget
    assert (args.data.max_len - budget, args.reward.overlong_buffer_len) == (2048, budget // 4)
    assert name != "2k" or read_layer(str(BASE)) == merged(read_layer(str(path)) for path in (BASE, *_context(name)))


def _context(name: str) -> list[Path]:
    return [CONFIGS / "context" / f"{name}.yaml"]


@pytest.mark.parametrize(
    ("name", "nodes", "gpus"),
    [
        ("8xh100", 1, 8),
        ("8xh200", 1, 8),
        ("4xh100", 1, 4),
        ("2x8xh100", 2, 8),
        ("1xh200", 1, 1),
        ("1x24gb", 1, 1),
        ("cpu", 1, 1),
    ],
)
def test_hardware(name, nodes, gpus):
    platform = "cpu" if name == "cpu" else "cuda"
    args = args_of(BASE, CONFIGS / "algorithm" / "grpo.yaml", CONFIGS / "hardware" / f"{name}.yaml", platform=platform)
    assert (args.actor.num_nodes, args.actor.num_gpus_per_node, args.vllm.num_engines) == (nodes, gpus, nodes * gpus)
    assert args.num_gpus == nodes * gpus, "generation and training share them"
    assert args.platform == platform


COMPARE = CONFIGS / "debug" / "compare_cpu.yaml"


@pytest.mark.parametrize("layer", ALGORITHMS, ids=lambda p: p.stem)
def test_what_is_compared_takes_as_many_steps(layer):
    args = args_of(CONFIGS / "hardware" / "cpu.yaml", QUICKSTART, COMPARE, layer)
    samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    assert samples // args.train.batch_size * args.train.max_epochs == 16
    assert args.actor.lr_scheduler == "constant"


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda p: p.stem)
def test_what_a_run_writes_down_reads_back(algorithm, tmp_path):
    """Without a flag that would be refused beside those it follows from."""
    settings = settings_of("--config", f"{BASE},{algorithm}", "--actor.model_name_or_path", "model")
    (tmp_path / "config.yaml").write_text(as_yaml(resolved(settings)), encoding="utf-8")
    args = args_of(tmp_path / "config.yaml", platform="cuda")
    assert args.algo.objective == settings.algo.objective


@pytest.mark.parametrize("arm", OBJECTIVE.arms, ids=lambda arm: arm.slug)
def test_every_arm_of_the_comparison_has_the_coefficient_it_says(arm):
    layers = [CONFIGS / f"{layer}.yaml" for layer in (*COMPARED, arm.layer)]
    args = args_of(*layers, more=arm.command(0.02))
    assert args.algo.kl.init_coef == (0.02 if arm.penalty == "algo.kl.init_coef" else 0)
    if args.algo.objective == "rpg":
        assert args.rpg.beta == (0.02 if arm.penalty else 0)
    if arm.penalty:
        assert args.ref.refresh == "never"


def test_published_runs_have_four_hundred_rollouts():
    for data in ("dapo_math_17k", "deepscaler"):
        args = args_of(BASE, CONFIGS / "data" / f"{data}.yaml", CONFIGS / "algorithm" / "dapo.yaml", platform="cuda")
        assert (args.train.max_rollouts, args.train.num_episodes) == (400, 100)
