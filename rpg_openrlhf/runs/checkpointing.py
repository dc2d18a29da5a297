"""Upstream's strategy with complete checkpoints: a folder gets its final name when all ranks have written."""

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import deepspeed
import numpy as np
import torch
from openrlhf.utils.deepspeed import DeepspeedStrategy
from openrlhf.utils.distributed_util import torch_dist_barrier_and_cuda_sync
from peft import PeftModel
from safetensors.torch import save_file

from rpg_openrlhf.deepspeed_states import (
    drop_offload_buffers,
    optimizer_settings,
    problem_of_fused_adam,
    restore_optimizer_settings,
    with_an_adam_that_exists,
)
from rpg_openrlhf.runs import checkpoints, resharding
from rpg_openrlhf.runs.checkpoints import ACTOR, WRITING
from rpg_openrlhf.weight_sync.adapters import engine_weights, unpacked


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read. The message is one line for the user."""


class CheckpointingStrategy(DeepspeedStrategy):
    """Differs from upstream's DeepspeedStrategy (utils/deepspeed/deepspeed.py) in how it writes checkpoints.

    Upstream deletes old checkpoints before the new one exists, writes in place, and saves no random generators.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra_writers: list[
            Callable[[Path], None]
        ] = []  # these write more of this rank's files into a checkpoint
        self.saved_weights: Callable[[], AbstractContextManager] = nullcontext  # a model is saved inside this context
        self.written: tuple[Path, dict] | None = None  # the hidden folder that commit() publishes, and its record

    def save_ckpt(self, model, save_dir, tag=None, max_num=3, max_mem=1000, client_state=None, **kwargs):
        """Differs from upstream: writes into a hidden folder and deletes nothing; `commit` does the rest."""
        hidden = Path(save_dir, WRITING)
        if self.is_rank_0():
            shutil.rmtree(hidden, ignore_errors=True)
        kwargs["save_latest"] = False
        with only_adapters(model):
            super().save_ckpt(model, str(hidden), tag, max_num, max_mem, client_state, **kwargs)
        torch.save(random_state(), hidden / tag / self._random_file())
        resharding.write_places(model, hidden / tag)
        for write in self.extra_writers:
            write(hidden / tag)
        record = {name: kwargs.get(name) for name in ("metric_value", "metric_key")}
        self.written = (hidden / tag, record | {"max_num": max_num, "max_mem": max_mem})

    def save_model(self, model, tokenizer, output_dir, **kwargs):
        """Differs from upstream: a checkpoint's Hugging Face model is written under a hidden name, then renamed.

        Its config.json sets use_cache to true, which upstream turns off for training (models/actor.py).
        """
        config, name = self._unwrap_model(model).config, Path(output_dir)
        is_checkpoint = name.name.endswith("_hf")  # else the final model, whose folder may hold other files
        folder = name.with_name(f"{WRITING}_{name.name}") if is_checkpoint else name
        if is_checkpoint and self.is_rank_0():
            shutil.rmtree(folder, ignore_errors=True)
        trained_with, config.use_cache = config.use_cache, True
        try:
            with self.saved_weights():
                self._save_whole(model, tokenizer, folder, **kwargs)
        finally:
            config.use_cache = trained_with
        if is_checkpoint and self.is_rank_0():
            checkpoints.publish(folder, name)

    def _save_whole(self, model, tokenizer, folder: Path, **kwargs):
        """Save as upstream does; with LoRA adapters save the merged weights, and the adapters in the folder `adapter`.

        With `--ckpt.merge_lora` off, save only the adapters.
        """
        module = self._unwrap_model(model)
        has_adapters = isinstance(module, PeftModel)
        is_merged = has_adapters and self.args.ckpt.merge_lora
        super().save_model(model, tokenizer, str(folder / "adapter" if is_merged else folder), **kwargs)
        if is_merged:
            self._save_merged(module, tokenizer, folder)
            self._remove_other_form(folder, "adapter_config.json", "adapter_model.*")
            torch_dist_barrier_and_cuda_sync()
        elif has_adapters:
            self._remove_other_form(folder, "model.safetensors", "adapter/*")

    def _save_merged(self, module: PeftModel, tokenizer, folder: Path) -> None:
        weights, adapters = engine_weights(module)
        merged: dict[str, torch.Tensor] = {}
        for weight_name, weight in weights.items():
            adapter = adapters.get(weight_name)
            parts = [weight, adapter.down, adapter.up] if adapter else [weight]
            with deepspeed.zero.GatheredParameters(parts, enabled=self.stage == 3):
                if self.is_rank_0():
                    values = unpacked(weight)
                    merged[weight_name] = (adapter.merged(values) if adapter else values).cpu().clone()
        if not self.is_rank_0():
            return
        base = module.get_base_model()
        settings = base.config.to_dict()
        settings.pop("quantization_config", None)  # the saved weights are not quantized
        base.config.from_dict(settings).to_json_file(folder / "config.json")
        save_file(merged, folder / "model.safetensors", metadata={"format": "pt"})
        if base.can_generate():
            base.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _remove_other_form(self, folder: Path, *patterns: str) -> None:
        """Remove files that the run saved before with the other value of `--ckpt.merge_lora`."""
        if self.is_rank_0():
            for file in (file for pattern in patterns for file in folder.glob(pattern)):
                file.unlink()

    def commit(self, step: int) -> None:
        """Publish the folder of the last save_ckpt, then delete superfluous checkpoints. Every rank calls it."""
        if self.written is None:
            return
        torch_dist_barrier_and_cuda_sync()
        if self.is_rank_0():
            self._publish(step)
        self.written = None
        torch_dist_barrier_and_cuda_sync()

    def _publish(self, step: int) -> None:
        folder, record = self.written
        max_num, max_bytes = record.pop("max_num"), record.pop("max_mem") * 1024**3
        parts = folder.parent.parent
        name = parts / folder.name
        critic = parts.name == ACTOR and bool(self.args.critic.model_name_or_path)
        checkpoints.seal(folder, step, record | self.args.ckpt.record | {"ranks": self.world_size, "critic": critic})
        checkpoints.publish(folder, name)
        # Plain OpenRLHF and DeepSpeed load the checkpoint that this file names.
        latest = parts / f"{WRITING}_latest"
        latest.write_text(name.name, encoding="utf-8")
        latest.replace(parts / "latest")
        for beside in folder.parent.iterdir():  # DeepSpeed's script that extracts fp32 weights
            beside.replace(parts / beside.name)
        folder.parent.rmdir()
        actor = parts.parent / ACTOR / name.name
        if checkpoints.read(actor) is None:
            return  # the policy's or critic's part is not complete yet: delete nothing before it is
        for old in checkpoints.superfluous(checkpoints.find(parts.parent), actor, max_num, max_bytes):
            shutil.rmtree(old.folder, ignore_errors=True)
            shutil.rmtree(checkpoints.critic_of(old.folder), ignore_errors=True)

    def get_ds_train_config(self, optim_dict=None, **kwargs):
        """Differs from upstream: uses torch's AdamW, and prints a line, if FusedAdam cannot be built."""
        config = super().get_ds_train_config(optim_dict, **kwargs)
        problem = problem_of_fused_adam() if optim_dict is not None else None
        changed = with_an_adam_that_exists(config, problem)
        if changed is not config:
            self.print(f"FusedAdam cannot be built ({problem}): torch's AdamW is used, whose states stay on the GPU")
        return changed

    def load_ckpt(self, model, load_dir, *args, **kwargs):
        """Differs from upstream: loads the checkpoint that the launcher chose, not that of `latest`, or raises.

        A checkpoint of another number of ranks or another ZeRO stage is resharded (resharding.py). The optimizer keeps
        the settings of the flags: DeepSpeed would restore those of the checkpoint (engine.py, load_checkpoint), and a
        changed learning rate would have no effect.
        """
        folder = self.resumed(Path(load_dir).name)
        settings = optimizer_settings(model)
        if self._is_resharded(folder):
            path, states = str(folder), resharding.load(model, folder, checkpoints.read(folder).record["ranks"])
        else:
            if isinstance(model.module, PeftModel):  # its checkpoints lack the base model
                kwargs["load_module_strict"] = False
            path, states = super().load_ckpt(model, str(folder.parent), folder.name, *args[1:], **kwargs)
        if path is None:
            raise CheckpointError(f"{folder} was not loaded: it holds no DeepSpeed checkpoint")
        drop_offload_buffers(model)
        restore_optimizer_settings(model, settings)
        return path, states

    def resumed(self, part: str) -> Path:
        """Folder of the checkpoint that the run resumes: the policy's (_actor) or the critic's (_critic)."""
        chosen = Path(self.args.ckpt.resume_from)
        return chosen.parent.parent / part / chosen.name

    def _is_resharded(self, folder: Path) -> bool:
        """True if another number of ranks or another ZeRO stage wrote the checkpoint. ZeRO 0 has no shards."""
        then = checkpoints.read(folder).record
        return self.stage > 0 and (then["ranks"], then["flags"]["ds.zero_stage"]) != (self.world_size, self.stage)

    def restore_random_state(self, part: str) -> None:
        """Restore this rank's random generators from the checkpoint. Call it last: initialization draws numbers.

        With another number of ranks the generators keep the run's seeds.
        """
        if checkpoints.read(self.resumed(part)).record["ranks"] != self.world_size:
            return
        set_random_state(torch.load(self.resumed(part) / self._random_file(), weights_only=False))

    def _random_file(self) -> str:
        return f"random_rank{self.get_rank()}.pt"


@contextmanager
def only_adapters(engine: deepspeed.DeepSpeedEngine) -> Iterator[None]:
    """Leave the frozen base model of LoRA adapters out of a checkpoint.

    DeepSpeed's own switch keeps tied weights and the parts of 4-bit weights.
    """
    if not isinstance(engine.module, PeftModel):
        yield
        return
    state_dict = engine.module_state_dict
    engine.module_state_dict = lambda **kwargs: {n: w for n, w in state_dict(**kwargs).items() if ".lora_" in n}
    engine.save_checkpoint = partial(engine.save_checkpoint, exclude_frozen_parameters=True)
    try:
        yield
    finally:
        del engine.save_checkpoint, engine.module_state_dict


class WholeCheckpoints:
    """Checkpoints of a model's Ray actor: each is published when complete, and an error names the last good one."""

    part: str  # ACTOR or CRITIC

    def init_model_from_pretrained(self, *args, **kwargs):
        """Differs from upstream: restores the random generators."""
        super().init_model_from_pretrained(*args, **kwargs)
        if self.strategy.args.ckpt.load_enable:
            self.strategy.restore_random_state(self.part)

    def save_checkpoint(self, tag, *args, **kwargs):
        """Differs from upstream: publishes the folder last, after the Hugging Face model."""
        path = Path(self.strategy.args.ckpt.path)
        try:
            super().save_checkpoint(tag, *args, **kwargs)
            self.strategy.commit(int(tag.rpartition("global_step")[2]))
        except Exception as error:  # torch, safetensors and the file system raise different types
            reason = failure(path, tag, error)
            shutil.rmtree(path / self.part / WRITING, ignore_errors=True)  # frees space: the disk is usually full
            raise CheckpointError(reason) from None


def failure(path: Path, tag: str, error: Exception) -> str:
    """Message on one line: what was not written, why, and which checkpoint the run can resume."""
    there = path
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    why = f"the disk is full ({free / 2**20:.0f} MiB free)" if _is_full(error) else _first_line(error)
    good = checkpoints.newest(path)
    kept = f"{good.folder.name} is whole and kept" if good else "there is no earlier one"
    return f"--ckpt.path {path}: {tag} was not written: {why}; {kept}; make room, then give the same command again"


def _is_full(error: Exception) -> bool:
    """True if an error of the system, of torch or of safetensors means a full disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left", "file write failed", "StorageFull"))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def random_state() -> dict:
    """States of this process's random generators that training uses."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict) -> None:
    """Restore the states of `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
