"""One attempt at a run: start or join Ray, put our classes in place, run upstream's own `train(args)`."""

import contextlib
import json
import os
import pickle
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from rpg_openrlhf import cpu_platform, garbage
from rpg_openrlhf.launch.supervise import ATTEMPT, DIED, JOB, end_with_parent, log_of

# Environment variables that libraries read in the workers; each one set here is passed on.
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
PREFIXES_PASSED_ON = ("GLOO_", "NCCL_", "TORCH_NCCL_", "VLLM_")


WAIT_SECONDS = 5.0  # between two looks at the cluster's free GPUs
NOTE_SECONDS = 60.0  # between two lines about the wait


class Secret(str):
    """A string with a masked repr: upstream may print all its arguments or send them to W&B as configuration."""

    def __repr__(self) -> str:
        return "'***'"


def main() -> int:
    """Run one attempt as the child of supervise.py.

    Settings arrive on stdin; events go to the pipe whose file descriptor is the first argument.
    """
    end_with_parent()  # a run whose supervisor was killed must not continue unwatched
    events = int(sys.argv[1])

    def tell(event: dict) -> None:
        with contextlib.suppress(BrokenPipeError):  # the supervisor died: see end_with_parent
            os.write(events, json.dumps(event).encode() + b"\n")

    return run(pickle.load(sys.stdin.buffer), tell)


def run(args: SimpleNamespace, tell: Callable[[dict], None] = lambda event: None) -> int:
    """Train with `args` and return the exit status: 0 success, 1 error, DIED if a process died, 143 stopped.

    Progress goes to stdout. Library output, of this process and of every worker, goes to <run_dir>/train.log.
    `tell` is called with each phase as it begins, and with the cause of a failure.
    """
    run_dir = Path(args.logger.run_dir)

    def terminate(number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    with noise_to(log_of(args)) as console:
        try:
            signal.signal(signal.SIGTERM, terminate)
            connect(args)
            wait_for_gpus(args, console, tell)
            signal.signal(signal.SIGTERM, terminate)  # ray.init has installed a handler that aborts
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
    """Prepare this process for upstream's imports. Call garbage.as_usual() after them; our actor classes do."""
    garbage.rarely()
    if platform == "cpu":
        cpu_platform.install()
    else:
        cpu_platform.stand_in_for_flash_attn()


def set_up_worker() -> None:
    """Prepare a worker. Ray calls this by name in every worker before it loads our classes."""
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
    threading.Thread(target=watch, args=(partial(_exit_after_death, tell), over), daemon=True).start()
    try:
        train_ppo_ray.train(args)
    finally:
        over.set()
        reader.finish()
    checkpoints.mark_model_saved(Path(args.ckpt.path))
    check_length(args, reader.rollouts, reader.last_step)
    try:
        model_card.write(args, reader.last_step)
    except OSError as error:  # the model is saved, but this machine may not write there
        print(f"note: {args.ckpt.output_dir}: no README.md was written ({error.strerror})", file=console)
    return 0


def check_length(args: SimpleNamespace, announced: int, taken: int) -> None:
    """Raise RuntimeError if the data ran out before the announced number of rollouts."""
    if announced and announced == args.train.max_rollouts and taken < announced:
        raise RuntimeError(
            f"the run ended after {taken} of {announced} rollouts (--train.max_rollouts): its "
            f"{args.train.num_episodes} episodes ran out of prompts; raise --train.num_episodes, or lower "
            f"--train.max_rollouts. The model of rollout {taken} is in {args.ckpt.output_dir}"
        )


def _exit_after_death(tell: Callable[[dict], None], died: dict) -> None:
    """Report the death and exit. The main thread may block for ever on the dead process; the supervisor cleans up."""
    tell({"died": died})
    os._exit(DIED)


def connect(args: SimpleNamespace) -> None:
    """Join the Ray cluster at RAY_ADDRESS (`ray job submit` sets it), or start a local one on loopback."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # This is how Ray is told that no other machine joins: all its processes then listen on loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray's limit of 30 s is too short on a busy machine.
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
        )  # a placeholder, never sent: without a key upstream logs in, which needs a real one
    runtime_env: dict = {"worker_process_setup_hook": "rpg_openrlhf.launch.attempt.set_up_worker"}
    if args.platform == "cpu":
        env_vars |= {name: os.environ.get(name, value) for name, value in cpu_platform.ENVIRONMENT.items()}
    # Variables of a submitted job reach the workers anyway, and Ray rejects a variable that is set twice.
    job = json.loads(os.environ.get(JOB, "{}")).get("runtime_env", {})
    runtime_env["env_vars"] = {k: v for k, v in env_vars.items() if k not in job.get("env_vars", {})}
    if address:
        _join(address, runtime_env)
    else:
        # On a CPU the GPUs are virtual, so that Ray places the same actors.
        virtual = {"num_gpus": args.num_gpus, "num_cpus": args.num_gpus + 2} if args.platform == "cpu" else {}
        ray.init(address="local", runtime_env=runtime_env, include_dashboard=False, **virtual)


def wait_for_gpus(args: SimpleNamespace, console: TextIO, tell: Callable[[dict], None]) -> None:
    """Return once the GPUs of the run are free. RuntimeError if the cluster has fewer: upstream would wait for ever.

    The wait is a phase of its own, without a deadline, so that a run behind another job does not count as hung.
    """
    import ray

    needed, next_note = args.num_gpus, 0.0
    while True:
        total = int(ray.cluster_resources().get("GPU", 0))  # asked each time: a node may die in the meantime
        free = int(ray.available_resources().get("GPU", 0))
        if total < needed:
            start = f"ray start --head --num-gpus {needed} --num-cpus {needed + 2}"
            fix = start if args.platform == "cpu" else "add nodes, or --train.colocate_all"
            raise RuntimeError(f"the run needs {needed} GPUs, the Ray cluster has {total}: {fix}")
        if free >= needed:
            tell({"phase": "start"})
            return
        if time.monotonic() >= next_note:
            tell({"phase": "wait"})
            print(f"waiting: {free} of the cluster's {total} GPUs are free, the run needs {needed}", file=console)
            next_note = time.monotonic() + NOTE_SECONDS
        time.sleep(WAIT_SECONDS)


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
    """W&B's id of the run. It is stored in the run's folder, so that a resumed run continues the same curves."""
    file = Path(args.logger.run_dir, "wandb_run_id")
    if not (args.ckpt.load_enable and file.exists()):
        file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return file.read_text(encoding="utf-8")


@contextlib.contextmanager
def noise_to(path: Path) -> Iterator[TextIO]:
    """Redirect file descriptors 1 and 2 to `path`; yield the original console."""
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
    """Last line of the innermost error. Ray wraps a worker's exception, traceback included, in its own."""
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, BaseException) else error).strip() or type(error).__name__
    return text.splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
