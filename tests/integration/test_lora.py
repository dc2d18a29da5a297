"""LoRA: adapters train, engines hold the merged weights, the reference is the base model, and a killed run resumes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LORA = ("--ds.lora.rank", "4", "--ds.lora.alpha", "8", "--actor.adam.lr", "5e-3")


def merged_of(base, adapter) -> dict[str, torch.Tensor]:
    """By PEFT itself."""
    from peft import PeftModel

    return dict(PeftModel.from_pretrained(base, adapter).merge_and_unload().named_parameters())


@pytest.mark.parametrize(
    ("stage", "flags"),
    [
        ("2", ("--ref.refresh", "never", "--rpg.beta", "0.01")),
        ("3", ("--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2", "--train.micro_batch_size", "8")),
    ],
)
def test_adapters_train(train, tiny, stage, flags):
    run = train(*LORA, "--ds.zero_stage", stage, "--ds.param_dtype", "fp32", *flags)
    assert run.returncode == 0, run.output
    assert len(run.metrics) == 3
    for step in run.metrics:
        assert step["actor_grad_norm"] > 0
        # Engines sample from the merged weights: their log-probs and the trainer's agree.
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.05)
    out = run.run_dir.parent / "model"
    saved = load_file(out / "model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32)
    start = {name: weight.clone() for name, weight in base.named_parameters()}
    expected = merged_of(base, out / "adapter")
    assert saved.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(saved[name], weight.data, atol=1e-6, rtol=1e-5)
    changed = {name for name in saved if not torch.equal(saved[name], start[name])}
    assert changed
    assert all("proj" in name for name in changed), "nothing but what has an adapter"
    AutoModelForCausalLM.from_pretrained(out)


def test_a_resumed_run_is_the_undisturbed_one(train):
    """Two rollouts, then the third from the checkpoint, against three at once; the reference is the base model."""
    flags = (*LORA, "--ref.refresh", "never", "--rpg.beta", "0.01", "--train.full_determinism_enable")
    flags += ("--ckpt.save_steps", "1", "--ds.param_dtype", "fp32")
    whole = train(*flags, name="whole")
    assert whole.returncode == 0, whole.output
    part = train(*flags, "--train.max_rollouts", "2", name="part")
    assert part.returncode == 0, part.output
    rest = train(*flags, "--train.max_rollouts", "3", name="part")
    assert rest.returncode == 0, rest.output
    for name in ("policy_loss", "policy/kl_ref_k3", "reward", "actor_grad_norm"):
        assert rest.metrics[-1][name] == whole.metrics[-1][name], name
    assert rest.metrics[-1]["policy/kl_ref_k3"] > 0
    models = [load_file(run.run_dir.parent / "model" / "model.safetensors") for run in (whole, rest)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    config = json.loads((rest.run_dir.parent / "model" / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4
