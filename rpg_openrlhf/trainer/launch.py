"""Start or join Ray, put our classes in place, run upstream's own `train(args)`, and leave nothing behind."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from rpg_openrlhf.trainer import cpu_platform

# Read by libraries inside the workers; passed on when set here.
PASSED_ON = (
    "WANDB_MODE",
    "WANDB_API_KEY",
    "WANDB_DIR",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "NCCL_DEBUG",
    "CUDA_LAUNCH_BLOCKING",
)


class Secret(str):
    """A key that upstream may print with all its arguments, or send to W&B as configuration."""

    def __repr__(self) -> str:
        return "'***'"


def launch(args: SimpleNamespace) -> int:
    """Train as `args` (checked, hierarchical) says; 0 when it ended well, 1 when it failed, 130 when interrupted.

    Progress goes to stdout. Whatever the libraries print, here and in every worker, goes to <run_dir>/train.log.
    """
    run_dir = Path(args.logger.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / "train.log"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with noise_to(log) as console:
        try:
            return _train(args, run_dir, console)
        except KeyboardInterrupt:
            print("interrupted", file=console, flush=True)
            return 130
        except Exception as error:
            import traceback

            traceback.print_exc()  # to the log
            print(f"error: {_root_cause(error)}  (all of it: {log})", file=console, flush=True)
            return 1
        finally:
            with contextlib.suppress(ImportError):
                import ray

                ray.shutdown()


def _train(args: SimpleNamespace, run_dir: Path, console: TextIO) -> int:
    if args.platform == "cpu":
        cpu_platform.install()
    if args.logger.wandb.key:
        args.logger.wandb.key = Secret(args.logger.wandb.key)
    connect(args)
    from openrlhf.cli import train_ppo_ray
    from ray.util.queue import Queue

    from rpg_openrlhf.trainer.install import install
    from rpg_openrlhf.trainer.progress import ProgressReader

    reports = Queue(actor_options={"num_cpus": 0})
    install(args, reports)
    metrics = run_dir / "metrics.jsonl"
    if metrics.exists() and not args.ckpt.load_enable:
        metrics.replace(run_dir / "metrics.previous.jsonl")  # another run's steps would stand between this one's
    reader = ProgressReader(reports, metrics, console)
    reader.start()
    try:
        train_ppo_ray.train(args)
    finally:
        reader.finish()
    return 0


def connect(args: SimpleNamespace) -> None:
    """Join the Ray cluster that RAY_ADDRESS or a local `ray start` names, else start one on this machine's loopback.

    RuntimeError where a cluster is there but has fewer GPUs than the run asks for: upstream would wait for ever.
    """
    import ray

    env_vars = {"TOKENIZERS_PARALLELISM": "true", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
    env_vars |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    runtime_env: dict = {"env_vars": env_vars}
    if args.platform == "cpu":
        env_vars |= cpu_platform.ENVIRONMENT
        runtime_env["worker_process_setup_hook"] = "rpg_openrlhf.trainer.cpu_platform.install"
    needed = gpus_needed(args)
    try:
        ray.init(address="auto", runtime_env=runtime_env)
    except ConnectionError:
        # On a CPU the GPUs are virtual: Ray places the same actors by them.
        virtual = {"num_gpus": needed, "num_cpus": needed + 2} if args.platform == "cpu" else {}
        ray.init(
            address="local", runtime_env=runtime_env, include_dashboard=False, _node_ip_address="127.0.0.1", **virtual
        )
    available = int(ray.cluster_resources().get("GPU", 0))
    if available < needed:
        hint = (
            f"ray start --head --num-gpus {needed} --num-cpus {needed + 2}" if args.platform == "cpu" else "more nodes"
        )
        raise RuntimeError(f"the run needs {needed} GPUs, the Ray cluster has {available}: {hint}")


def gpus_needed(args: SimpleNamespace) -> int:
    """GPUs that upstream's train() reserves (openrlhf/cli/train_ppo_ray.py), each model's groups and the engines."""

    def ranks(group: SimpleNamespace) -> int:
        return group.num_nodes * group.num_gpus_per_node

    total = ranks(args.actor)
    if args.train.colocate_all:
        return total + (args.vllm.num_engines * args.vllm.tensor_parallel_size if args.train.async_enable else 0)
    if args.algo.kl.init_coef > 0 and not args.train.colocate_actor_ref:
        total += ranks(args.ref)
    if args.critic.model_name_or_path:
        total += ranks(args.critic)
    if not args.reward.remote_url and not (args.critic.model_name_or_path and args.train.colocate_critic_reward):
        total += ranks(args.reward)
    return total + args.vllm.num_engines * args.vllm.tensor_parallel_size


@contextlib.contextmanager
def noise_to(path: Path) -> Iterator[TextIO]:
    """Send file descriptors 1 and 2 to `path`; yields the console as it was."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    # Descriptors, not sys.stdout: Ray, vLLM and torch write from C++ too.
    with path.open("ab") as log, os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as console:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield console
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _root_cause(error: BaseException) -> str:
    """The innermost error's last line: Ray wraps a worker's exception in its own, traceback and all."""
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, BaseException) else error).strip() or type(error).__name__
    return text.splitlines()[-1]
