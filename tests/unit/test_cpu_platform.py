"""The CPU platform: nothing before it is needed, the patched names after. What engines and placement are asked for."""

import json
import subprocess
import sys
from types import SimpleNamespace as Namespace

import pytest
import torch

from tests import upstream

upstream.make_importable()

from rpg_openrlhf import cpu_platform
from rpg_openrlhf.launch.install import engine_overrides

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU platform is for machines without CUDA")

PROBE = """
import importlib.util, json, os, sys
from rpg_openrlhf import cpu_platform
os.environ["OMP_NUM_THREADS"] = "3"
cpu_platform.install()
cpu_platform.install()
facts = {
    "finders": sum(isinstance(finder, cpu_platform._PatchOnImport) for finder in sys.meta_path),
    "loaded_by_install": sorted({"torch", "ray", "deepspeed", "vllm", "transformers", "openrlhf"} & set(sys.modules)),
    "environment": {name: os.environ[name] for name in cpu_platform.ENVIRONMENT},
}
import torch
original = torch.cuda.current_device
facts["patched_before_openrlhf"] = original.__module__ != "torch.cuda"
import openrlhf.models
facts["patched_after_openrlhf"] = torch.cuda.current_device is not original
facts["flash_attn_modules"] = [name for name in sys.modules if name.split(".")[0] == "flash_attn"]
facts["flash_attn_is_found"] = importlib.util.find_spec("flash_attn") is not None
from openrlhf.models import ring_attn_utils
facts["padding"] = ring_attn_utils.unpad_input.__module__
import deepspeed.accelerator
facts["accelerator"] = deepspeed.accelerator.get_accelerator()._name
from deepspeed.ops import __compatible_ops__
facts["shared_memory_extension"] = __compatible_ops__["deepspeed_shm_comm"]
print("FACTS" + json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts() -> dict:
    """What PROBE finds in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("FACTS")[-1])


@without_cuda
def test_install_registers_one_finder_and_imports_nothing(facts):
    """An idle Ray worker runs it too, as its set-up hook."""
    assert facts["finders"] == 1
    assert facts["loaded_by_install"] == []


@without_cuda
def test_the_callers_environment_wins(facts):
    assert facts["environment"] == {**cpu_platform.ENVIRONMENT, "OMP_NUM_THREADS": "3"}


@without_cuda
def test_torch_is_patched_by_the_import_of_openrlhf_alone(facts):
    assert not facts["patched_before_openrlhf"]
    assert facts["patched_after_openrlhf"]


@without_cuda
def test_flash_attn_is_there_only_for_upstreams_import(facts):
    """transformers would choose its kernels if it found the package."""
    assert facts["padding"] == "transformers.modeling_flash_attention_utils"
    assert facts["flash_attn_modules"] == []
    assert not facts["flash_attn_is_found"]


@without_cuda
def test_deepspeed_builds_nothing(facts):
    assert facts["accelerator"] == "cpu"
    assert facts["shared_memory_extension"] is False


@without_cuda
def test_torch_cuda_answers_for_the_cpu():
    assert torch.cuda.current_device() == torch.device("cpu")
    assert torch.zeros(1).to(torch.cuda.current_device()).device.type == "cpu"
    assert torch.cuda.current_stream() is None
    for call in (torch.cuda.empty_cache, torch.cuda.synchronize, lambda: torch.cuda.set_device(3)):
        assert call() is None
    assert not torch.cuda.is_available()


@without_cuda
def test_upstreams_dtypes_and_fp32():
    from openrlhf.utils.utils import convert_to_torch_dtype

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: convert_to_torch_dtype(name) for name in dtypes} == dtypes
    with pytest.raises(ValueError, match="fp8"):
        convert_to_torch_dtype("fp8")


@without_cuda
def test_replay_buffer_keeps_samples_on_the_cpu():
    from openrlhf.trainer.ppo_utils import replay_buffer

    assert replay_buffer.NaiveReplayBuffer(2).target_device == torch.device("cpu")
    assert replay_buffer.torch.cat is torch.cat


@without_cuda
def test_weights_travel_by_gloo(monkeypatch):
    """Upstream hands over a device as well; the communicator needs none."""
    from openrlhf.utils import distributed_util

    group = "vllm.distributed.utils.stateless_init_torch_distributed_process_group"
    monkeypatch.setattr(group, lambda *args, backend: (*args, backend))
    communicator = distributed_util.stateless_init_process_group("127.0.0.1", 1234, 1, 3, torch.device("cpu"))
    assert communicator.group == ("127.0.0.1", 1234, 1, 3, "gloo")


@without_cuda
def test_deepspeed_gets_torchs_adam():
    """By any way that upstream calls it, leaving the caller's dictionary alone."""
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

    ds = Namespace(param_dtype="fp32", zero_stage=2, ring_attn_size=1, tensor_parallel_size=1)
    args = Namespace(local_rank=-1, ds=ds, train=Namespace(dynamic_batch_enable=False))
    strategy = DeepspeedStrategy(args=args, zero_stage=2)
    strategy.ring_attn_size = strategy.ds_tensor_parallel_size = 1
    adam = {"type": "Adam", "params": {"lr": 0.5}}
    for config in (strategy.get_ds_train_config(adam), strategy.get_ds_train_config(optim_dict=adam, max_norm=3.0)):
        assert config["optimizer"] == {"type": "Adam", "params": {"lr": 0.5, "torch_adam": True}}
    assert config["gradient_clipping"] == 3.0
    assert adam == {"type": "Adam", "params": {"lr": 0.5}}
    assert "optimizer" not in strategy.get_ds_train_config()


OVERRIDES = [
    (("rpg", "recompute", "cuda", "bf16"), {}),
    (("rpg", "rollout", "cuda", "bf16"), {"logprobs_mode": "processed_logprobs", "max_logprobs": 1}),
    (("openrlhf", "rollout", "cuda", "bf16"), {}),
    (("rpg", "recompute", "cpu", "bf16"), {}),
    (("rpg", "recompute", "cpu", "fp32"), {"dtype": "float32"}),
    (("openrlhf", "recompute", "cpu", "fp32"), {"dtype": "float32"}),
]


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(("setting", "expected"), OVERRIDES)
def test_engine_overrides(setting, expected, trust):
    """Only what differs from the arguments upstream hard-codes; the worker extension by an importable name."""
    objective, old_policy, platform, dtype = setting
    overrides = engine_overrides(
        Namespace(
            trust_remote_code=trust,
            platform=platform,
            algo=Namespace(objective=objective),
            rpg=Namespace(old_policy=old_policy),
            ds=Namespace(param_dtype=dtype),
        )
    )
    assert overrides.pop("trust_remote_code") is trust
    assert overrides.pop("max_num_seqs") == 512
    from rpg_openrlhf.weight_sync.receiver import WeightReceiver

    assert overrides.pop("worker_extension_cls") == f"{WeightReceiver.__module__}.{WeightReceiver.__qualname__}"
    assert overrides == expected
