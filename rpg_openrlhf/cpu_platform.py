"""CPU platform: patches for all that OpenRLHF 0.11.2, DeepSpeed and vLLM do only on a GPU.

No other file patches torch, deepspeed or vllm. `install()` registers one patch per module; it is applied while
that module is imported, so a process that never imports it (an idle Ray worker) pays nothing. On a CUDA device only
`stand_in_for_flash_attn` runs.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import operator
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

RING_ATTENTION = "openrlhf.models.ring_attn_utils"
# Set in every process of a CPU run. One thread each: OpenMP threads that spin on shared cores destroy throughput.
# No dynamo: its C++ builds cost some 20 s at first use and gain nothing at the sizes a CPU trains.
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RPG_PLATFORM": "cpu",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def install() -> None:
    """Make this process, and the modules it imports from now on, run without CUDA. Repeated calls do nothing more."""
    if any(isinstance(finder, _PatchOnImport) and finder.patches is PATCHES for finder in sys.meta_path):
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.meta_path.insert(0, _PatchOnImport(PATCHES))
    for name in [name for name in PATCHES if name in sys.modules]:  # vLLM's worker has already imported vLLM
        with contextlib.contextmanager(PATCHES[name])(sys.modules[name]):
            pass


def stand_in_for_flash_attn() -> None:
    """Provide padding helpers if flash-attn is missing: OpenRLHF imports them for any kind of attention."""
    if importlib.util.find_spec("flash_attn") is None:
        sys.meta_path.insert(0, _PatchOnImport({RING_ATTENTION: _flash_attn_helpers}))


class _PatchOnImport(importlib.abc.MetaPathFinder):
    """Import hook that runs a patch around a module's code: up to its `yield` before the code, the rest after it."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], Iterator[None]]]):
        self.patches = patches

    def find_spec(self, fullname: str, path=None, target=None):
        patch = self.patches.get(fullname)
        if patch is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with contextlib.contextmanager(patch)(module):
                execute(module)

        spec.loader.exec_module = exec_module
        return spec


def _torch_cuda(_: ModuleType) -> Iterator[None]:
    """Upstream moves tensors to torch.cuda.current_device(), and synchronizes, empties and selects that device."""
    import torch

    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.current_stream = lambda device=None: None
    for name in ("empty_cache", "set_device", "synchronize"):
        setattr(torch.cuda, name, lambda *args, **kwargs: None)
    yield


def _flash_attn_helpers(_: ModuleType) -> Iterator[None]:
    """models/ring_attn_utils.py imports flash_attn's padding helpers, which need no CUDA but ship with its kernels.

    transformers has the same helpers in plain torch. They are in sys.modules only during that import, because
    transformers would take them for a real flash_attn.
    """
    from einops import rearrange
    from transformers import modeling_flash_attention_utils as transformers_padding

    def all_gather(tensor: object, group: object) -> None:
        raise NotImplementedError("--ds.ring_attn_size > 1 needs CUDA")

    names = ("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed")
    modules = {name: ModuleType(name) for name in names}
    vars(modules["flash_attn.bert_padding"]).update(
        index_first_axis=operator.getitem,  # upstream has flattened the first two axes
        pad_input=transformers_padding._pad_input,
        rearrange=rearrange,
        unpad_input=transformers_padding._unpad_input,
    )
    vars(modules["flash_attn.utils.distributed"]).update(all_gather=all_gather)
    sys.modules.update(modules)
    yield
    for name in names:
        del sys.modules[name]


def _strategy(module: ModuleType) -> Iterator[None]:
    """utils/deepspeed/deepspeed.py builds a "cuda" mesh and lets DeepSpeed pick an Adam that compiles an extension.

    A process killed during such a build leaves a lock file on which every later run waits for ever.
    """
    yield
    init_device_mesh = module.init_device_mesh
    module.init_device_mesh = lambda _device, *args, **kwargs: init_device_mesh("cpu", *args, **kwargs)

    get_ds_train_config = module.DeepspeedStrategy.get_ds_train_config

    def get_ds_train_config_with_torch_adam(self, optim_dict=None, **kwargs):
        if optim_dict is not None:
            optim_dict = {**optim_dict, "params": {**optim_dict["params"], "torch_adam": True}}
        return get_ds_train_config(self, optim_dict, **kwargs)

    module.DeepspeedStrategy.get_ds_train_config = get_ds_train_config_with_torch_adam


def _no_shared_memory_extension(module: ModuleType) -> Iterator[None]:
    """deepspeed/comm/torch.py compiles a shared-memory collective if it can. gloo suffices (locks: see _strategy)."""
    yield
    module.__compatible_ops__["deepspeed_shm_comm"] = False


def _ordered_gathers(module: ModuleType) -> Iterator[None]:
    """deepspeed/runtime/zero/partition_parameters.py waits only for the last of several gathers; gloo keeps no order.

    After a ZeRO-3 step on two or more ranks, small parameters could be used before they have arrived.
    """
    yield
    dist = module.dist

    class DistInOrder:
        __getattr__ = staticmethod(lambda name: getattr(dist, name))

        @staticmethod
        def all_gather_into_tensor(*args, **kwargs):
            handle = dist.all_gather_into_tensor(*args, **kwargs)
            if handle is not None:
                handle.wait()
            return handle

    module.dist = DistInOrder()


def _fp32(module: ModuleType) -> Iterator[None]:
    """utils/utils.py knows bf16 and fp16 only; fp32 is the CPU's exact mode."""
    yield
    import torch

    convert = module.convert_to_torch_dtype
    module.convert_to_torch_dtype = lambda dtype: torch.float32 if dtype == "fp32" else convert(dtype)


def _replay_buffer(module: ModuleType) -> Iterator[None]:
    """trainer/ppo_utils/replay_buffer.py writes torch.device(f"cuda:{current_device()}")."""
    yield
    import torch

    class TorchOnCPU:
        device = staticmethod(lambda _spec: torch.device("cpu"))
        __getattr__ = staticmethod(lambda name: getattr(torch, name))

    module.torch = TorchOnCPU()


def _gloo_sync_group(module: ModuleType) -> Iterator[None]:
    """utils/distributed_util.py connects trainer and engines by NCCL."""
    yield
    import torch
    import torch.distributed as dist
    from vllm.distributed import utils

    class GlooCommunicator:
        """A process group between policy rank 0 and the engines, with PyNcclCommunicator's `broadcast`."""

        def __init__(self, host: str, port: int, rank: int, world_size: int, _device: object = None):
            self.group = utils.stateless_init_torch_distributed_process_group(
                host, port, rank, world_size, backend="gloo"
            )

        def broadcast(self, tensor: torch.Tensor, src: int, stream: object = None) -> None:
            options = dist.BroadcastOptions()
            options.rootRank, options.rootTensor = src, 0
            # Sent as bytes, so that gloo need not know the dtype. reshape(-1) is a view of a contiguous parameter.
            self.group.broadcast([tensor.detach().reshape(-1).view(torch.uint8)], options).wait()

    module.stateless_init_process_group = GlooCommunicator


def _plain_linear_layers(module: ModuleType) -> Iterator[None]:
    """vLLM-CPU packs linear weights after loading and drops the parameter, so later weights cannot be loaded."""
    yield
    import torch

    def dispatch_plain(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    module.dispatch_cpu_unquantized_gemm = dispatch_plain


PATCHES: dict[str, Callable[[ModuleType], Iterator[None]]] = {
    "openrlhf": _torch_cuda,
    RING_ATTENTION: _flash_attn_helpers,
    "openrlhf.utils.deepspeed.deepspeed": _strategy,
    "openrlhf.utils.utils": _fp32,
    "openrlhf.utils.distributed_util": _gloo_sync_group,
    "openrlhf.trainer.ppo_utils.replay_buffer": _replay_buffer,
    "deepspeed.ops": _no_shared_memory_extension,
    "deepspeed.runtime.zero.partition_parameters": _ordered_gathers,
    "vllm.model_executor.layers.utils": _plain_linear_layers,
}
