"""LoRA: adapters train, engines hold the merged weights, the reference is the base model, and a run resumes."""

import json
import signal
from pathlib import Path

import pytest
import torch
from peft import load_peft_weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rpg_openrlhf.runs import checkpoints
from rpg_openrlhf.weight_sync.adapters import write_merged
from tests.integration.test_equal_runs import numbers

LORA = ("--ds.lora.rank", "4", "--ds.lora.alpha", "8", "--actor.adam.lr", "5e-3")


def merged_of(base, adapter) -> dict[str, torch.Tensor]:
    """By PEFT itself."""
    from peft import PeftModel

    return dict(PeftModel.from_pretrained(base, adapter).merge_and_unload().named_parameters())


def check_adapters(run, base_folder) -> None:
    """Gradients, engines that sample from the merged weights, and the saved model as PEFT would merge it."""
    assert run.returncode == 0, run.output
    assert len(run.metrics) == 3
    for step in run.metrics:
        assert step["actor_grad_norm"] > 0
        # Engines sample from the merged weights: their log-probs and the trainer's agree.
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.05)
    out = run.run_dir.parent / "model"
    saved = load_file(out / "model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    start = {name: weight.clone() for name, weight in base.named_parameters()}
    expected = merged_of(base, out / "adapter")
    assert saved.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(saved[name], weight.data, atol=1e-6, rtol=1e-5)
    changed = {name for name in saved if not torch.equal(saved[name], start[name])}
    assert changed
    assert all("proj" in name for name in changed), "nothing but what has an adapter"
    adapted = sum(weight.nbytes for name, weight in saved.items() if "proj" in name) / 2**20
    for step in run.metrics:
        assert step["sync/mib"] == pytest.approx(adapted, rel=1e-3), "only layers with adapters travel"
    AutoModelForCausalLM.from_pretrained(out)


def test_adapters_train_on_two_ranks(train, tiny, tmp_path):
    """ZeRO 3; after the last sync the engine holds the saved model, to the bit.

    Resumed from its first checkpoint the run takes the same steps; the reference is the base model.
    """
    flags = (*LORA, "--ds.zero_stage", "3", "--ds.param_dtype", "fp32", "--train.micro_batch_size", "8")
    flags += ("--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2", "--train.full_determinism_enable")
    flags += ("--ref.refresh", "never", "--rpg.beta", "0.01", "--ckpt.save_steps", "1")
    whole = train(*flags, name="whole", entry=(str(Path(__file__).with_name("observed_weights.py")),))
    check_adapters(whole, tiny[0])
    merged = whole.run_dir.parent / "model"
    saved = load_file(merged / "model.safetensors")
    for name, weight in torch.load(whole.run_dir / "syncs.pt")[-1]["engine"].items():
        assert torch.equal(weight, saved[name]), name

    first = whole.run_dir.parent / "checkpoints" / "_actor" / "global_step1"
    rest = train(*flags, "--resume", str(first), "--ckpt.merge_lora=false", name="rest")
    assert rest.returncode == 0, rest.output
    assert numbers(rest) == numbers(whole)[1:]
    assert all(step["policy/kl_ref_k3"] > 0 for step in rest.metrics)
    adapter = rest.run_dir.parent / "model"
    assert not (adapter / "model.safetensors").exists()
    weights = [load_peft_weights(str(folder)) for folder in (merged / "adapter", adapter)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    # A checkpoint holds no base model.
    states = list((rest.run_dir.parent / "checkpoints" / "_actor" / "global_step3").glob("*model_states.pt"))
    assert len(states) == 2
    assert all(".lora_" in name for file in states for name in torch.load(file, weights_only=False)["module"])
    write_merged(adapter, tmp_path / "merged", trust_remote_code=False)
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved), "what the evaluation samples from"


def test_a_4_bit_base_model(train, tiny):
    """Engines hold what its weights stand for; after Ctrl-C the checkpoint of the adapters resumes."""
    flags = (*LORA, "--ds.load_in_4bit", "--ds.zero_stage", "2", "--ds.param_dtype", "bf16", "--ckpt.save_steps", "1")
    # Slowly, so that the distance to the base model hardly depends on the moment at which Ctrl-C acts.
    flags += ("--train.num_episodes", "99", "--actor.adam.lr", "1e-3")
    stopped = train(*flags, until=(signal.SIGINT, 2))
    held = checkpoints.newest(stopped.run_dir.parent / "checkpoints").step
    run = train(*flags, "--train.max_rollouts", str(held + 1))
    assert run.returncode == 0, run.output
    assert [step["step"] for step in run.metrics] == list(range(1, held + 2))
    for step in run.metrics:
        assert step["actor_grad_norm"] > 0
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.05)
    out = run.run_dir.parent / "model"
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    start = AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.bfloat16).state_dict()
    saved = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).state_dict()
    for name, weight in saved.items():
        if "proj" in name:  # 4 bits and a few rollouts away from the base model
            assert 0 < (weight - start[name]).norm() < 0.3 * start[name].norm(), name
        else:
            assert torch.equal(weight, start[name]), name
