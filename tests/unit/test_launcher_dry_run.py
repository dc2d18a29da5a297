"""--dry_run: prompts through the real tokenizer and template, counted steps, and the memory estimate."""

from types import SimpleNamespace

import pytest
from transformers import Qwen3Config

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.settings import machine, memory
from tests.unit.launcher_case import CONFIG, argv, good_flags, write_rows
from tests.unit.test_launcher_settings import args_of


def test_dry_run_reports_and_starts_nothing(tmp_path, capsys):
    good = good_flags(tmp_path)
    problems = [{"problem": "1+1=", "answer": "2"}, {"problem": "1" * 200, "answer": "2"}]
    good |= {"eval.steps": "1", "eval.dataset": str(write_rows(tmp_path / "sums.jsonl", problems))}
    (tmp_path / "model" / "model.safetensors").unlink()  # planning a run needs only the shapes
    assert train_rpg.main([*argv(good), "--dry_run"], launch=lambda args: pytest.fail("launched")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    facts = ("first 100 prompts: 6 tokens in the median, 6 at most", "| 0+0=", "fits: ", "nothing was started")
    for fact in (*facts, "all 2 prompts of the evaluation: 200 tokens at most, room for 95; 1 are longer"):
        assert fact in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rollout.max_new_tokens": "95"}, "all of the first 100 prompts are longer than the 1 tokens that"),
        ({"actor.model_name_or_path": "no-such-org/no-such-model"}, "neither a local folder nor a model on the hub"),
    ],
)
def test_dry_run_refusals(tmp_path, capsys, change, says, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert train_rpg.main([*argv({**good_flags(tmp_path), **change}), "--dry_run"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_a_run_that_does_not_fit_has_status_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "host_memory_gib", lambda: 0.5)
    assert train_rpg.main([*argv(good_flags(tmp_path)), "--dry_run"]) == 1
    out = capsys.readouterr().out
    assert "DOES NOT FIT: " in out
    assert out.endswith("dry run: the run is not expected to fit in memory; nothing was started\n")


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path, capsys):
    good = good_flags(tmp_path)
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"vocab_size": 64', '"vocab_size": 8'))
    assert train_rpg.main([*argv(good), "--dry_run"]) == 2
    assert "tokens, its model only 8" in capsys.readouterr().err


QWEN3_4B = Qwen3Config(
    vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
    num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def shapes():
    return memory.count_shapes(QWEN3_4B, 0, False)


def test_parameters_are_counted_without_memory(shapes):
    assert shapes.parameters == pytest.approx(4.02e9, rel=1e-3)  # the model card says 4.0B
    tiny = memory.count_shapes(Qwen3Config(**{k: v for k, v in CONFIG.items() if k != "architectures"}), 4, False)
    assert tiny.parameters < 2e5
    assert tiny.lora == 2 * 4 * (64 + 64 + 2 * (64 + 32) + 64 + 64 + 3 * (64 + 128))


def gpu_args(*words: str) -> SimpleNamespace:
    return args_of("--actor.num_gpus_per_node", "8", "--vllm.num_engines", "8", *words, platform="cuda")


def test_model_states_by_zero_stage(shapes):
    gib = shapes.parameters / 2**30
    for stage, bytes_each in ((0, 2 + 2 + 12), (1, 2 + 2 + 12 / 8), (2, 2 + 2 / 8 + 12 / 8), (3, 16 / 8)):
        states = memory.model_states(gpu_args("--ds.zero_stage", str(stage)), shapes)
        assert sum(states.values()) == pytest.approx(bytes_each * gib)
    packed = memory.model_states(gpu_args("--ds.load_in_4bit"), shapes)["weights"] * 2**30
    embeddings = 151_936 * 2560 * 2
    assert packed == pytest.approx(embeddings + 36 * 100_925_440 * 0.516, rel=1e-3), "four bits, and their scales"
    offloaded = memory.model_states(gpu_args("--ds.adam_offload"), shapes)
    assert sum(offloaded.values()) == pytest.approx(2 * gib)


def test_a_reference_is_counted_only_where_there_is_one(shapes):
    def reference(*words: str) -> float:
        """Bytes a parameter, over 8 ranks."""
        return memory.model_states(gpu_args(*words), shapes)["reference model"] * 2**30 / shapes.parameters

    assert reference("--ref.refresh", "never") == pytest.approx(2 / 8), "partitioned, as ZeRO-2's optimizer"
    assert reference("--ref.refresh", "never", "--ds.zero_stage", "0") == pytest.approx(2)
    assert reference("--ref.refresh", "ema", "--ref.mix", "0.5") == pytest.approx(4 / 8), (
        "fp32, so that little is kept"
    )
    grpo = ("--algo.objective", "openrlhf", "--train.colocate_all", "--ref.num_gpus_per_node", "8")
    assert reference(*grpo) == pytest.approx(2), "upstream's is whole"
    assert "reference model" not in memory.model_states(gpu_args("--train.colocate_all"), shapes)
    offloaded = gpu_args("--ref.refresh", "never", "--ref.offload")
    assert "reference model" not in memory.model_states(offloaded, shapes)


def test_logits_are_what_was_measured(shapes):
    """The notes on performance: 12.4 GB at 8,192 tokens without, 17.4 GB with entropy."""
    whole = ("--train.micro_batch_size", "4", "--actor.chunked_head", "off")
    peak = memory.activations(gpu_args(*whole), shapes)
    assert peak["logits"] * 2**30 / 1e9 == pytest.approx(12.4, rel=0.01)
    peak = memory.activations(gpu_args(*whole, "--actor.entropy_coef", "0"), shapes)
    assert peak["logits"] * 2**30 / 1e9 == pytest.approx(17.4, rel=0.01)
    tiles = memory.activations(gpu_args("--train.micro_batch_size", "4", "--actor.entropy_coef", "0"), shapes)
    assert tiles["logits"] < peak["logits"] / 50
    full, checkpointed = (
        memory.activations(gpu_args("--train.micro_batch_size", "4", *more), shapes)["activations of 8,192 tokens"]
        for more in ([], ["--actor.gradient_checkpointing_enable"])
    )
    assert checkpointed < full / 8
    some = ("--actor.gradient_checkpointing_enable", "--actor.gradient_checkpointing_layers", str(shapes.layers // 2))
    half = memory.activations(gpu_args("--train.micro_batch_size", "4", *some), shapes)["activations of 8,192 tokens"]
    assert half == pytest.approx((full + checkpointed) / 2, rel=0.03)


def test_buffers_are_counted(shapes):
    """The embedding of Qwen3-4B is smaller than a bucket; that of Qwen3-32B is larger."""
    zero_2, zero_3 = (memory.buffers(gpu_args("--ds.zero_stage", stage), shapes) for stage in "23")
    assert zero_2 == {"weight sync": 1.0, "gradients on their way": pytest.approx(0.93, abs=0.01)}
    assert zero_3["gathered weights"] == pytest.approx(1.86, abs=0.01)
    large = shapes._replace(parameters=32_762_123_264, hidden=5120)
    assert memory.buffers(gpu_args(), large)["weight sync"] * 2**30 == 151936 * 5120 * 2
    small = large._replace(parameters=10**6, vocabulary=100, inner=64, hidden=64)
    assert memory.buffers(gpu_args("--ds.zero_stage", "0"), small) == {"weight sync": 2e6 / 2**30}


@pytest.mark.parametrize(("stage", "fuller"), [("3", "generating"), ("0", "training")])
def test_the_fuller_phase_is_named(shapes, stage, fuller):
    words = ["--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep", "--ds.zero_stage", stage]
    found = memory.estimate(gpu_args(*words, "--vllm.gpu_memory_utilization", "0.5"), shapes, 80.0)
    assert found.remark.startswith(f"{fuller}; 80 GiB per GPU; "), found


def test_it_fits_with_sleep_and_not_without(shapes, monkeypatch):
    monkeypatch.setattr(machine, "gpu_memory_gib", list)
    shared = ["--train.colocate_all", "--vllm.gpu_memory_utilization", "0.8", "--train.micro_batch_size", "4"]
    shared += ["--actor.gradient_checkpointing_enable"]
    sleeping = memory.estimate(gpu_args(*shared, "--vllm.enable_sleep", "--ds.enable_sleep"), shapes)
    awake = memory.estimate(gpu_args(*shared), shapes)
    assert sleeping.needed <= sleeping.available == memory.ASSUMED_GPU_GIB
    assert awake.needed > awake.available
    assert "assumed" in awake.remark


def test_an_engine_that_cannot_hold_one_sequence_does_not_fit(shapes, monkeypatch):
    monkeypatch.setattr(machine, "gpu_memory_gib", lambda: [16.0] * 8)
    found = memory.estimate(gpu_args("--vllm.gpu_memory_utilization", "0.5"), shapes)
    assert found.needed > found.available == 16.0
    assert "less than one sequence" in found.remark
