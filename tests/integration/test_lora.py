"""LoRA: adapters train, engines hold the merged weights, the reference is the base model, and a killed run resumes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

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


def test_adapters_train_on_two_ranks(train, tiny):
    """ZeRO 3; after the last sync the engine holds the saved model, to the bit."""
    flags = ("--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2", "--train.micro_batch_size", "8")
    observed = (str(Path(__file__).with_name("observed_weights.py")),)
    run = train(*LORA, "--ds.zero_stage", "3", "--ds.param_dtype", "fp32", *flags, entry=observed)
    check_adapters(run, tiny[0])
    saved = load_file(run.run_dir.parent / "model" / "model.safetensors")
    for name, weight in torch.load(run.run_dir / "syncs.pt")[-1]["engine"].items():
        assert torch.equal(weight, saved[name]), name


def test_a_resumed_run_is_the_undisturbed_one(train, tiny, tmp_path):
    """The third of three rollouts again, from the checkpoint before it; the reference is the base model."""
    flags = (*LORA, "--ref.refresh", "never", "--rpg.beta", "0.01", "--train.full_determinism_enable")
    flags += ("--ckpt.save_steps", "1", "--ds.param_dtype", "fp32", "--ds.zero_stage", "2")
    whole = train(*flags, name="whole")
    check_adapters(whole, tiny[0])
    last = whole.run_dir.parent / "checkpoints" / "_actor" / "global_step2"
    rest = train(*flags, "--resume", str(last), "--ckpt.merge_lora=false", name="rest")
    assert rest.returncode == 0, rest.output
    for name in ("policy_loss", "policy/kl_ref_k3", "reward", "actor_grad_norm"):
        assert rest.metrics[-1][name] == whole.metrics[-1][name], name
    assert rest.metrics[-1]["policy/kl_ref_k3"] > 0
    merged, adapter = (run.run_dir.parent / "model" for run in (whole, rest))
    assert not (adapter / "model.safetensors").exists()
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (merged / "adapter", adapter)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    # A checkpoint holds no base model.
    (states,) = (rest.run_dir.parent / "checkpoints" / "_actor" / "global_step3").glob("*model_states.pt")
    assert all(".lora_" in name for name in torch.load(states, weights_only=False)["module"])
    assert evaluated(adapter, tmp_path / "adapter_scores") == evaluated(merged, tmp_path / "merged_scores")


def evaluated(model, output) -> list[tuple]:
    """Samples that the evaluation draws from a saved model."""
    problems = output.with_name("sums.jsonl")  # whose name decides the seeds
    rows = [{"id": str(i), "problem": f"{10 + i}+{20 + i}=", "answer": str(30 + 2 * i)} for i in range(6)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-m", "evaluation.run", "--model", model, "--benchmarks", problems, "--prompt", "raw"]
    command += ["--no-chat-template", "--n", "4", "--max-tokens", "20", "--output", output]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    return sorted((line["problem"], line["sample"], line["text"]) for line in lines)


def test_a_4_bit_base_model(train, tiny):
    """Engines hold what its weights stand for; a checkpoint of the adapters is gone on with."""
    flags = (*LORA, "--ds.load_in_4bit", "--ds.zero_stage", "2", "--ds.param_dtype", "bf16", "--ckpt.save_steps", "1")
    run = train(*flags, "--train.max_rollouts", "2")
    assert run.returncode == 0, run.output
    run = train(*flags, "--train.max_rollouts", "3")
    assert run.returncode == 0, run.output
    assert [step["step"] for step in run.metrics] == [1, 2, 3]
    for step in run.metrics:
        assert step["actor_grad_norm"] > 0
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.05)
    out = run.run_dir.parent / "model"
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    start = AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.bfloat16).state_dict()
    saved = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).state_dict()
    for name, weight in saved.items():
        if "proj" in name:  # 4 bits and two rollouts away from the base model
            assert 0 < (weight - start[name]).norm() < 0.3 * start[name].norm(), name
        else:
            assert torch.equal(weight, start[name]), name
