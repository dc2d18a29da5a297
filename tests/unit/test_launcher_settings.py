"""What reaches the trainer: the launcher's own settings, the banner, and the run's arithmetic."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.preflight import data
from rpg_openrlhf.settings import arguments as settled
from rpg_openrlhf.settings import checks, defaults, layout, machine
from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings.arguments import arguments
from rpg_openrlhf.settings.banner import banner
from rpg_openrlhf.settings.layout import optimizer_steps, rollouts
from rpg_openrlhf.settings.run_settings import nested
from tests.unit.launcher_case import argv, good_flags, settings_of, write_rows


def args_of(*words: str, platform: str = "cpu") -> SimpleNamespace:
    common = ("--vllm.num_engines", "1", "--rollout.n_samples_per_prompt", "2", "--platform", platform)
    return arguments(settings_of(*common, *words))[0]


@pytest.mark.parametrize(
    ("words", "coefficient", "in_loss"),
    [
        ([], 0, False),  # the reference is the old policy: upstream builds no reference group
        (["--ref.refresh", "never"], 0, True),  # nor where it is RPG's own, inside the policy's actors
        (["--ref.refresh", "interval", "--ref.interval", "9", "--rpg.beta", "0.5"], 0, True),
        (["--rpg.beta", "0"], 0, False),
        (["--algo.objective", "openrlhf", "--algo.kl.init_coef", "0.3"], 0.3, False),
        (["--algo.objective", "openrlhf", "--algo.kl.init_coef", "0.3", "--algo.kl.use_loss"], 0.3, True),
    ],
)
def test_upstreams_kl_settings_follow_from_ours(words, coefficient, in_loss):
    kl = args_of(*words).algo.kl
    assert (kl.init_coef, kl.use_loss) == (coefficient, in_loss)


def test_the_cpu_platform_settings():
    args = args_of("--vllm.enable_sleep", "--train.colocate_all", "--ds.enable_sleep")
    assert (args.ds.attn_implementation, args.vllm.sync_backend, args.vllm.enforce_eager) == ("sdpa", "shm", True)
    assert (args.vllm.enable_sleep, args.ds.enable_sleep) == (False, False)
    assert args_of("--vllm.sync_backend", "gloo").vllm.sync_backend == "gloo"
    assert args_of("--ds.attn_implementation", "eager").ds.attn_implementation == "eager"
    assert args_of("--train.dynamic_batch_enable").ds.attn_implementation == "sdpa"


def test_the_cuda_platform_is_left_alone(monkeypatch):
    monkeypatch.setattr(machine, "has_flash_attn", lambda: True)
    args = args_of("--ds.packing_samples", platform="cuda")
    assert (args.ds.attn_implementation, args.vllm.sync_backend) == ("flash_attention_2", "nccl")
    assert (args.platform, args.vllm.enforce_eager) == ("cuda", False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "auto"),
        (["--actor.chunked_head", "on"], "on"),
        (["--actor.chunked_head", "off"], "off"),
        (["--ds.tensor_parallel_size", "2"], "off"),
        (["--ds.ring_attn_size", "2"], "off"),
        (["--ds.deepcompile"], "off"),
    ],
)
def test_whole_logits_where_others_cut_the_output_layer(words, expected):
    args = args_of(*words, platform="cuda")
    before = args.actor.chunked_head
    assert before == expected


@pytest.mark.parametrize(
    ("words", "ratio"),
    [([], 0.03), (["--actor.lr_scheduler", "constant"], 0), (["--actor.lr_scheduler", "constant_with_warmup"], 0.03)],
)
def test_schedule_free_warms_up_by_itself(words, ratio):
    actor = args_of("--actor.optim", "schedulefree", *words).actor
    assert (actor.lr_scheduler, actor.lr_warmup_ratio) == ("constant", ratio)
    assert args_of().actor.lr_scheduler == "cosine_with_min_lr", "of other optimizers it is upstream's"


def test_without_a_reward_our_grader_is_it():
    assert args_of().reward.remote_url == [defaults.REWARD_FUNC]
    assert args_of("--reward.remote_url", "http://x").reward.remote_url == ["http://x"]
    assert args_of("--reward.model_name_or_path", "x").reward.remote_url is None
    assert args_of("--train.agent_func_path", "x.py").reward.remote_url == ["agent"]


def test_logs_go_beside_the_model_unless_said_otherwise():
    assert args_of("--ckpt.output_dir", "/a/b").logger.run_dir == "/a/b/logs"
    assert args_of("--logger.run_dir", "/c").logger.run_dir == "/c"


def test_paths_are_absolute_for_workers_that_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "a.jsonl").touch()
    args = args_of("--actor.model_name_or_path", "model", "--data.prompt_dataset", "a.jsonl,model@x,org/set")
    assert args.actor.model_name_or_path == f"{tmp_path}/model"
    assert args.data.prompt_dataset == f"{tmp_path}/a.jsonl,{tmp_path}/model@x,org/set"
    assert args.logger.run_dir == f"{tmp_path}/ckpt/logs"
    assert args_of("--actor.model_name_or_path", "org/name").actor.model_name_or_path == "org/name"


def text_of(*words: str, prompts: int | None = 100) -> str:
    return " ".join(banner(args_of("--actor.model_name_or_path", "m", *words), prompts, []).split())


def test_the_banner_names_every_choice_of_an_rpg_run():
    words = "--rollout.batch_size 32 --train.batch_size 16 --actor.eps_clip_low_high 0.2 0.28 --actor.dual_clip 10"
    text = text_of(*words.split())
    for fact in (
        "URKL, unnormalized KL(policy || ref), beta 0.0001", "reinforce gradient estimator", "weight per token",
        "recomputed by the actor", "refreshed at every rollout (no reference model)", "low 0.2, high 0.28, dual 10",
        "baseline group mean", "aggregation token-mean", "4 of 16 samples", "at most 32,768", "on cpu",
        f"logs {Path.cwd()}/ckpt/logs",
        "3 rollouts, 12 optimizer steps",
    ):  # fmt: skip
        assert fact in text


def test_the_banner_of_other_choices():
    assert "vLLM's own log-probs" in text_of("--rpg.old_policy", "rollout")
    assert "the start policy, fixed (a reference model)" in text_of("--ref.refresh", "never")
    assert "reference none (beta is 0)" in text_of("--rpg.beta", "0")
    both = "--ref.refresh kl --ref.kl_target 0.01 --ref.interval 40 --ref.min_interval 20 --ref.mix 0.5"
    assert (
        "the start policy, then 0.5 of the policy every 40 optimizer steps or when the average KL passes 0.01, not "
        "within 20 optimizer steps (a reference model)"
    ) in text_of(*both.split())
    ema = "--ref.refresh ema --ref.mix 0.01 --ref.model_name_or_path base"
    assert "base, then 0.01 of the policy mixed in at every optimizer step" in text_of(*ema.split())
    assert "unknown before the data set is loaded" in text_of(prompts=None)
    grpo = ["--algo.objective", "openrlhf", "--algo.advantage.estimator", "group_norm"]
    assert "KL k3 in the loss, coefficient 0.001" in text_of(
        *grpo, "--algo.kl.init_coef", "1e-3", "--algo.kl.use_loss", "--algo.kl.estimator", "k3"
    )
    assert "KL k1 in the reward, coefficient 0.01" in text_of(*grpo)
    assert "KL none" in text_of(*grpo, "--algo.kl.init_coef", "0")


def test_steps_are_counted_as_upstream_counts_them():
    args = args_of("--rollout.batch_size", "32", "--train.batch_size", "16", "--train.num_episodes", "3",
                   "--train.max_epochs", "2")  # fmt: skip
    assert rollouts(args, 100) == 100 * 3 // 32
    assert optimizer_steps(args, 100) == 9 * (64 // 16) * 2, "prompts of an episode's end start the next rollout"
    args.train.async_enable, args.algo.objective = True, "openrlhf"
    assert rollouts(args, 100) == 4 * 3
    assert optimizer_steps(args, 100) == 100 * 2 // 16 * 3 * 2


def values(**changes):
    given = flags.parse(["--vllm.num_engines", "2"]).values
    return nested({**given, **{k.replace("__", "."): v for k, v in changes.items()}})


def test_gpus_that_upstreams_placement_asks_for():
    base = dict(actor__num_gpus_per_node=4, ref__num_gpus_per_node=3, reward__remote_url="r.py")
    base["algo__advantage__estimator"] = "dr_grpo"
    assert layout.gpus_needed(values(**base)) == 4 + 2
    assert layout.gpus_needed(values(**base, train__colocate_all=True)) == 4
    assert layout.gpus_needed(values(**base, ref__refresh="never")) == 4 + 2, "it lives in the policy's actors"
    grpo = {**base, "algo__objective": "openrlhf"}
    assert layout.gpus_needed(values(**grpo, ref__refresh="never")) == 4 + 2 + 3
    assert layout.gpus_needed(values(**grpo, ref__refresh="rollout")) == 4 + 2, "the policy that sampled"
    assert layout.gpus_needed(values(**grpo, train__colocate_actor_ref=True)) == 4 + 2
    ppo = {**base, "algo__objective": "openrlhf", "algo__advantage__estimator": "gae", "algo__kl__init_coef": 0}
    assert layout.gpus_needed(values(**ppo, critic__num_gpus_per_node=5)) == 4 + 2 + 5
    both = {**ppo, "reward__remote_url": None, "critic__num_gpus_per_node": 5, "reward__num_gpus_per_node": 5}
    assert layout.gpus_needed(values(**both)) == 4 + 2 + 5 + 5
    assert layout.gpus_needed(values(**both, train__colocate_critic_reward=True)) == 4 + 2 + 5
    assert layout.gpus_needed(values(**both, train__colocate_critic_reward=True, train__colocate_all=True)) == 4 + 5
    assert values(actor__num_gpus_per_node=8, ds__ring_attn_size=2).plan.ranks == 4


def test_notes_on_prompts_that_fill_no_rollout():
    run = dict(
        rollout__batch_size=32, rollout__n_samples_per_prompt=2, train__batch_size=16, actor__num_gpus_per_node=1,
        train__num_episodes=3,
    )  # fmt: skip
    v = values(**run)
    assert layout.check_last_rollout(v, 96) == layout.check_last_rollout(v, None) == []
    assert "the last 9 of the run's 297 prompts fill no rollout of 32" in layout.check_last_rollout(v, 99)[0]
    assert layout.check_last_rollout(values(**run, algo__dynamic_filtering_enable=True), 99) == []
    asynchronous = values(**run, train__async_enable=True, algo__objective="openrlhf")
    assert layout.check_last_rollout(asynchronous, 96) == []
    assert "--data.max_samples 96" in layout.check_last_rollout(asynchronous, 99)[0]


def test_an_asynchronous_episodes_last_rollout_may_be_too_small_for_the_ranks():
    v = values(
        rollout__batch_size=32, rollout__n_samples_per_prompt=8, rollout__micro_batch_size=16, train__batch_size=64,
        actor__num_gpus_per_node=2, train__async_enable=True, algo__objective="openrlhf",
    )  # fmt: skip
    with pytest.raises(Refusal, match="the last rollout of an episode has only 8 samples for 2 ranks"):
        layout.check_last_rollout(v, 33)


ROWS = [{"input": f"{i}", "label": i} for i in range(150)]


def test_every_kind_of_data_file_is_read(tmp_path):
    import json

    import datasets

    good = good_flags(tmp_path)
    (tmp_path / "array.json").write_text(json.dumps(ROWS))
    write_rows(tmp_path / "lines.json", ROWS)
    data_set = datasets.Dataset.from_list(ROWS)
    data_set.to_parquet(tmp_path / "rows.parquet")
    data_set.to_csv(tmp_path / "rows.csv")
    data_set.save_to_disk(tmp_path / "saved")
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    for name in ("array.json", "lines.json", "rows.parquet", "rows.csv", "saved", f"saved/{arrow.name}"):
        (source,) = data.read(settings_of(*argv({**good, "data.prompt_dataset": str(tmp_path / name)}))).sets
        assert len(source.rows) == 150
        assert source.rows[7] == {"input": "7", "label": "7"}
    both = argv({**good, "data.prompt_dataset": f"{tmp_path}/rows.csv,{tmp_path}/array.json"})
    assert data.read(settings_of(*both)).prompts == 300


def test_a_folder_of_files_is_read_through_the_library(tmp_path):
    good = good_flags(tmp_path)
    (tmp_path / "folder" / "part").mkdir(parents=True)
    write_rows(tmp_path / "folder" / "part" / "train.jsonl", ROWS[:60])
    (source,) = data.read(settings_of(*argv({**good, "data.prompt_dataset": f"{tmp_path}/folder@part"}))).sets
    assert len(source.rows) == 60


def test_checks_accept_the_published_batch():
    words = "--vllm.num_engines 8 --train.colocate_all --rollout.batch_size 512 --rollout.n_samples_per_prompt 16"
    words += " --train.batch_size 512 --train.micro_batch_size 4 --rollout.micro_batch_size 8"
    checks.check(
        settings_of(*words.split(), "--data.prompt_dataset", "x", "--data.label_key", "label", "--platform", "cpu")
    )


@pytest.mark.parametrize(
    ("config", "capabilities", "warns"),
    [
        ({"num_experts": 128}, [9.0, 10.0], True),
        ({"num_experts": 128}, [9.0], False),
        ({"n_routed_experts": 8, "quantization_config": {}}, [12.0], True),
        ({"n_routed_experts": 8, "quantization_config": {"bits": 8}}, [12.0], False),
        ({"hidden_size": 64}, [10.0], False),
    ],
)
def test_mixtures_of_experts_on_blackwell(config, capabilities, warns, monkeypatch):
    monkeypatch.setattr(machine, "compute_capabilities", lambda: capabilities)
    assert bool(machine.notes_on_experts(config, "cuda")) == warns
    assert machine.notes_on_experts(config, "cpu") == []


def test_attention_without_flash_attn(monkeypatch):
    """Upstream's default needs a package that no wheel exists of for this torch."""
    monkeypatch.setattr(machine, "has_flash_attn", lambda: False)
    args = SimpleNamespace(ds=SimpleNamespace(attn_implementation="flash_attention_2"))
    (note,) = settled._settle_attention(args)
    assert args.ds.attn_implementation == "sdpa"
    assert "flash-attn is not installed" in note
    assert settled._settle_attention(args) == []
    monkeypatch.setattr(machine, "has_flash_attn", lambda: True)
    args.ds.attn_implementation = "flash_attention_2"
    assert settled._settle_attention(args) == []
    assert args.ds.attn_implementation == "flash_attention_2"


def test_asynchronous_rpg():
    """Engines of their own, the sampler's log-probs, and upstream's synchronous trainer underneath."""
    words = ("--train.async_enable", "--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep")
    args = args_of(*words, platform="cuda")
    assert (args.train.asynchronous, args.train.async_enable, args.rpg.old_policy) == (True, False, "rollout")
    assert not (args.train.colocate_all)
    assert not (args.vllm.enable_sleep)
    assert not (args.ds.enable_sleep)
    assert "engines sample up to 1 rollout ahead of training" in text_of(*words)
    upstreams = args_of("--train.async_enable", "--algo.objective", "openrlhf")
    assert (upstreams.train.asynchronous, upstreams.train.async_enable) == (False, True)
    assert args_of().train.asynchronous is False
