"""Start or join Ray, put our classes in place, run upstream's own `train(args)`, and leave nothing behind."""

import contextlib
import json
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
    terminated: list[int] = []

    def terminate(number: int, _frame: object) -> None:
        terminated.append(number)  # kept aside: ray.get() turns whatever a handler raises into KeyboardInterrupt
        raise KeyboardInterrupt

    with noise_to(log) as console:
        try:
            connect(args, console)
            signal.signal(signal.SIGTERM, terminate)  # after ray.init, which sets one that ends in an abort
            return _train(args, run_dir, console)
        except KeyboardInterrupt:
            print("interrupted", file=console, flush=True)
            return 143 if terminated else 130
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


def connect(args: SimpleNamespace, console: TextIO) -> None:
    """Join the Ray cluster that RAY_ADDRESS names (`ray job submit` sets it), else start one on loopback.

    RuntimeError where the cluster has fewer GPUs than the run asks for: upstream would wait for ever.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # No other machine will join, in Ray's words: it then listens on loopback, and so do the processes it starts.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    env_vars = {"TOKENIZERS_PARALLELISM": "true", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
    env_vars |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if env_vars.get("WANDB_MODE") == "offline":
        env_vars.setdefault(
            "WANDB_API_KEY", "0" * 40
        )  # never sent; without one upstream logs in, which needs a real key
    runtime_env: dict = {}
    if args.platform == "cpu":
        env_vars |= {name: os.environ.get(name, value) for name, value in cpu_platform.ENVIRONMENT.items()}
        runtime_env["worker_process_setup_hook"] = "rpg_openrlhf.trainer.cpu_platform.install"
    # What the job was submitted with reaches the workers anyway, and Ray refuses to be told of it twice.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {})
    runtime_env["env_vars"] = {k: v for k, v in env_vars.items() if k not in job.get("env_vars", {})}
    if address:
        ray.init(address=address, runtime_env=runtime_env)
    else:
        # On a CPU the GPUs are virtual: Ray places the same actors by them.
        virtual = {"num_gpus": args.num_gpus, "num_cpus": args.num_gpus + 2} if args.platform == "cpu" else {}
        ray.init(address="local", runtime_env=runtime_env, include_dashboard=False, **virtual)
    total, free = (int(found.get("GPU", 0)) for found in (ray.cluster_resources(), ray.available_resources()))
    if total < args.num_gpus:
        start = f"ray start --head --num-gpus {args.num_gpus} --num-cpus {args.num_gpus + 2}"
        mend = start if args.platform == "cpu" else "add nodes, or --train.colocate_all"
        raise RuntimeError(f"the run needs {args.num_gpus} GPUs, the Ray cluster has {total}: {mend}")
    if free < args.num_gpus:
        print(f"waiting: {free} of the cluster's {total} GPUs are free, the run needs {args.num_gpus}", file=console)


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
