"""One attempt at a run: start or join Ray, put our classes in place, run upstream's own `train(args)`."""

import contextlib
import json
import os
import pickle
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from rpg_openrlhf import cpu_platform, garbage
from rpg_openrlhf.launch.supervise import ATTEMPT, DIED, JOB, end_with_parent, log_of

# Read by libraries inside the workers; passed on when set here.
PASSED_ON = (
    "WANDB_MODE",
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_DIR",
    "WANDB_TAGS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "CUDA_LAUNCH_BLOCKING",
)
PREFIXES_PASSED_ON = ("NCCL_", "VLLM_")


class Secret(str):
    """A key that upstream may print with all its arguments, or send to W&B as configuration."""

    def __repr__(self) -> str:
        return "'***'"


def main() -> int:
    """The child of supervise.py: the run's settings come on stdin, what happens goes to the pipe it was given."""
    end_with_parent()  # nobody watches a run whose supervisor was killed
    events = int(sys.argv[1])

    def tell(event: dict) -> None:
        with contextlib.suppress(BrokenPipeError):  # the supervisor is gone: see end_with_parent
            os.write(events, json.dumps(event).encode() + b"\n")

    return run(pickle.load(sys.stdin.buffer), tell)


def run(args: SimpleNamespace, tell: Callable[[dict], None] = lambda event: None) -> int:
    """Train as `args` says: 0 when it ended well, 1 when it failed, DIED when processes of it died, 143 when stopped.

    Progress goes to stdout. Whatever the libraries print, here and in every worker, goes to <run_dir>/train.log.
    `tell` is given each phase as it begins, and who died.
    """
    run_dir = Path(args.logger.run_dir)

    def terminate(number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    with noise_to(log_of(args)) as console:
        try:
            signal.signal(signal.SIGTERM, terminate)
            connect(args, console)
            signal.signal(signal.SIGTERM, terminate)  # ray.init sets one that ends in an abort
            return _train(args, run_dir, console, tell)
        except KeyboardInterrupt:
            return 143
        except Exception as error:
            import traceback

            from rpg_openrlhf.launch.deaths import death

            traceback.print_exc()  # to the log
            died = death(error)
            tell({"died": died or {"what": root_cause(error)}})
            return DIED if died else 1
        finally:
            with contextlib.suppress(ImportError):
                import ray

                ray.shutdown()


def set_up_process(platform: str) -> None:
    """Prepare this process for upstream's imports. The class it is for ends with garbage.as_usual()."""
    garbage.rarely()
    if platform == "cpu":
        cpu_platform.install()
    else:
        cpu_platform.stand_in_for_flash_attn()


def set_up_worker() -> None:
    """Ray calls this in every worker, by name, before anything of ours is loaded there."""
    set_up_process(os.environ.get("RPG_PLATFORM", "cuda"))


def _train(args: SimpleNamespace, run_dir: Path, console: TextIO, tell: Callable[[dict], None]) -> int:
    set_up_process(args.platform)
    if args.logger.wandb.key:
        args.logger.wandb.key = Secret(args.logger.wandb.key)
    from openrlhf.cli import train_ppo_ray
    from ray.util.queue import Queue

    from rpg_openrlhf.launch.deaths import watch
    from rpg_openrlhf.launch.install import install
    from rpg_openrlhf.runs import checkpoints, model_card
    from rpg_openrlhf.runs.progress import ProgressReader, log_up_to

    reports = Queue(actor_options={"num_cpus": 0})
    install(args, reports)
    garbage.as_usual()
    reader = ProgressReader(reports, log_up_to(run_dir / "metrics.jsonl", args.ckpt), console, tell)
    if args.ckpt.load_enable:
        place = {"step": args.ckpt.resumed_step, "from": args.ckpt.resume_from, "changed": args.ckpt.changed}
        reports.put({"kind": "resume", **place})
    over = threading.Event()
    reader.start()
    threading.Thread(target=watch, args=(partial(_end_at_once, tell), over), daemon=True).start()
    try:
        train_ppo_ray.train(args)
    finally:
        over.set()
        reader.finish()
    checkpoints.mark_model_saved(Path(args.ckpt.path))
    check_length(args, reader.rollouts, reader.last_step)
    try:
        model_card.write(args, reader.last_step)
    except OSError as error:  # the model is saved, perhaps where this machine cannot write
        print(f"note: {args.ckpt.output_dir}: no README.md was written ({error.strerror})", file=console)
    return 0


def check_length(args: SimpleNamespace, announced: int, taken: int) -> None:
    """Raise RuntimeError where a run ended before the rollouts it announced: its data ended first."""
    if announced and announced == args.train.max_rollouts and taken < announced:
        raise RuntimeError(
            f"the run ended after {taken} of {announced} rollouts (--train.max_rollouts): its "
            f"{args.train.num_episodes} episodes ran out of prompts; raise --train.num_episodes, or lower "
            f"--train.max_rollouts. The model of rollout {taken} is in {args.ckpt.output_dir}"
        )


def _end_at_once(tell: Callable[[dict], None], died: dict) -> None:
    """The main thread waits for somebody who waits for the dead; the supervisor clears up."""
    tell({"died": died})
    os._exit(DIED)


def connect(args: SimpleNamespace, console: TextIO) -> None:
    """Join the Ray cluster that RAY_ADDRESS names (`ray job submit` sets it), else start one on loopback.

    RuntimeError where the cluster has fewer GPUs than the run asks for: upstream would wait for ever.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # No other machine will join, in Ray's words: it then listens on loopback, and so do the processes it starts.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray gives up after 30 s, which a busy machine needs.
        os.environ.setdefault("RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT", "180")
    import ray

    env_vars = {"TOKENIZERS_PARALLELISM": "true", "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
    env_vars |= {
        name: value
        for name, value in os.environ.items()
        if name in (*PASSED_ON, ATTEMPT) or name.startswith(PREFIXES_PASSED_ON)
    }
    if args.logger.wandb.key:
        env_vars |= {"WANDB_RUN_ID": _wandb_id(args), "WANDB_RESUME": "allow"}
    if env_vars.get("WANDB_MODE") in ("offline", "disabled"):
        env_vars.setdefault(
            "WANDB_API_KEY", "0" * 40
        )  # never sent; without one upstream logs in, which needs a real key
    runtime_env: dict = {"worker_process_setup_hook": "rpg_openrlhf.launch.attempt.set_up_worker"}
    if args.platform == "cpu":
        env_vars |= {name: os.environ.get(name, value) for name, value in cpu_platform.ENVIRONMENT.items()}
    # What the job was submitted with reaches the workers anyway, and Ray refuses to be told of it twice.
    job = json.loads(os.environ.get(JOB, "{}")).get("runtime_env", {})
    runtime_env["env_vars"] = {k: v for k, v in env_vars.items() if k not in job.get("env_vars", {})}
    if address:
        _join(address, runtime_env)
    else:
        # On a CPU the GPUs are virtual: Ray places the same actors by them.
        virtual = {"num_gpus": args.num_gpus, "num_cpus": args.num_gpus + 2} if args.platform == "cpu" else {}
        ray.init(address="local", runtime_env=runtime_env, include_dashboard=False, **virtual)
    total, free = (int(resources.get("GPU", 0)) for resources in (ray.cluster_resources(), ray.available_resources()))
    if total < args.num_gpus:
        start = f"ray start --head --num-gpus {args.num_gpus} --num-cpus {args.num_gpus + 2}"
        fix = start if args.platform == "cpu" else "add nodes, or --train.colocate_all"
        raise RuntimeError(f"the run needs {args.num_gpus} GPUs, the Ray cluster has {total}: {fix}")
    if free < args.num_gpus:
        print(f"waiting: {free} of the cluster's {total} GPUs are free, the run needs {args.num_gpus}", file=console)


def _join(address: str, runtime_env: dict) -> None:
    """Join a running cluster. Refusal or RuntimeError where that is impossible, as after the death of its head."""
    import ray

    from rpg_openrlhf.preflight.files import check_ray_address  # late: every worker imports this file

    check_ray_address()
    try:
        ray.init(address=address, runtime_env=runtime_env)
    except ConnectionError as error:
        raise RuntimeError(
            f"RAY_ADDRESS={address}: no raylet of that cluster runs on this machine ({error.__cause__ or error}); "
            f"ray start --address {address}"
        ) from error


def _wandb_id(args: SimpleNamespace) -> str:
    """W&B's name for the run, kept in the run's folder: a resumed run adds to its curves."""
    file = Path(args.logger.run_dir, "wandb_run_id")
    if not (args.ckpt.load_enable and file.exists()):
        file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return file.read_text(encoding="utf-8")


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


def root_cause(error: BaseException) -> str:
    """The innermost error's last line: Ray wraps a worker's exception in its own, traceback and all."""
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, BaseException) else error).strip() or type(error).__name__
    return text.splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
