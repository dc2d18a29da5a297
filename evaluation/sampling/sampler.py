"""Draw what is missing: every (problem, sample) pair of every target through engines that never drain.

Samples go to disk as they finish, each with its verdict.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from evaluation.grading.graded_folder import SampleGrader, grade_folder
from evaluation.interruption import postponed
from evaluation.provenance import OURS, machine, positions, versions
from evaluation.sampling.dispatch import Dispatcher, Job
from evaluation.sampling.replicas import Completion, EngineSettings, LocalReplica, Replica, Request
from evaluation.sampling.seeds import seed_of
from evaluation.scores.results import write_results
from evaluation.settings import Settings
from evaluation.store import SampleStore, read_json, write_json
from evaluation.targets import Opened

PROVENANCE_SECONDS = 30.0  # between two writings while samples come, so that a kill loses no more


@dataclass(eq=False)
class _Sampling:
    """One target's open files while its samples come in."""

    opened: Opened
    store: SampleStore
    job: Job
    seeds: dict[tuple, int]
    grader: SampleGrader | None = None
    sessions: list[dict] = field(default_factory=list)  # earlier ones, of provenance.json
    replicas: list[Replica] = field(default_factory=list)
    told: float = float("-inf")  # when provenance.json was last written
    last: float = 0.0
    tokens: int = 0
    samples: int = 0

    @property
    def seconds(self) -> float:
        """Seconds from the first request given to an engine, after its start, to the last sample."""
        return max(self.last - self.job.started, 0.0) if self.job.started else 0.0


class Sampler:
    """Samples opened targets. `errors` tells, by folder, which could not be finished and why."""

    def __init__(self, settings: Settings, say: Callable[[str], None]):
        self.settings, self.say = settings, say
        self.errors: dict[Path, str] = {}
        self._by_job: dict[int, _Sampling] = {}
        self._bar: tqdm | None = None

    def run(self, targets: Sequence[Opened]) -> None:
        """Sample until every sample of every target is on disk and graded, or its error known."""
        with contextlib.ExitStack() as stack:
            samplings = [sampling for opened in targets if (sampling := self._opened(opened, stack))]
            self._by_job = {id(sampling.job): sampling for sampling in samplings}
            planned = sum(len(sampling.opened.rows) for sampling in samplings) * self.settings.n
            missing = sum(sampling.job.remaining for sampling in samplings)
            with postponed():
                stack.enter_context(self._ray(bool(missing)))
            self._bar = stack.enter_context(
                tqdm(total=planned, initial=planned - missing, unit="sample", desc="sampling", disable=not missing)
            )
            # Votes and intervals of a finished checkpoint are made beside the sampling of the next.
            finisher = stack.enter_context(ThreadPoolExecutor(1))
            endings: list[tuple[_Sampling, Future]] = []

            def end(job: Job) -> None:
                sampling = self._by_job[id(job)]
                endings.append((sampling, finisher.submit(self._finish, sampling)))

            slots = 1 if self.settings.server else self.settings.dp
            try:
                with postponed() as check:
                    Dispatcher([s.job for s in samplings], slots, self._take, end, self._note, check).run()
                for sampling, ending in endings:
                    try:
                        ending.result()
                    except (ValueError, OSError) as error:
                        sampling.job.error = sampling.job.error or str(error)
            except BaseException:
                self._abandon(samplings, finisher)
                raise
            for sampling in samplings:
                if sampling.job.error:
                    self.errors[sampling.opened.target.folder] = sampling.job.error

    def _abandon(self, samplings: Sequence[_Sampling], finisher: ThreadPoolExecutor) -> None:
        """Leave what is on disk; a rerun grades it and resumes."""
        finisher.shutdown(wait=False, cancel_futures=True)
        for sampling in samplings:
            if sampling.grader:
                sampling.grader.close()
            with contextlib.suppress(OSError):
                self._provenance(sampling)

    def _opened(self, opened: Opened, stack: contextlib.ExitStack) -> "_Sampling | None":
        """None for a folder that cannot be gone on with, its error noted: the others go on."""
        try:
            return self._open(opened, stack)
        except (ValueError, OSError) as error:
            self.errors[opened.target.folder] = str(error)
            return None

    def _open(self, opened: Opened, stack: contextlib.ExitStack) -> _Sampling:
        settings, folder = self.settings, opened.target.folder
        store = stack.enter_context(contextlib.closing(SampleStore(folder)))
        seeds, pending, longest = {}, deque(), 0
        for row in opened.rows:
            ids = None
            for sample in range(settings.n):
                key = (row["benchmark"], row["problem"], sample)
                if key in store.done:
                    continue
                if ids is None and opened.prompter.tokenizer is not None:
                    ids = opened.prompter.token_ids(row["prompt"])
                    longest = max(longest, len(ids))
                seeds[key] = seed_of(settings.seed, *key)
                pending.append(Request(key, row["prompt"], ids, seeds[key]))
        room = settings.max_model_len or positions(opened.model.path)
        if room and longest >= room:
            raise ValueError(
                f"a prompt of {longest} tokens leaves no room for a response in {room} (--max-model-len, or the "
                "model's own): another --prompt, or a model of longer context"
            )
        sampling = _Sampling(opened, store, Job(folder.name, pending, lambda slot: self._noted(sampling, slot)), seeds)
        if pending:
            sampling.grader = stack.enter_context(contextlib.closing(SampleGrader(folder)))
        path = folder / "provenance.json"
        sampling.sessions = read_json(path)["sessions"] if path.exists() else []
        return sampling

    def _noted(self, sampling: _Sampling, slot: int) -> Replica:
        replica = self._replica(sampling.opened, slot)
        sampling.replicas.append(replica)
        return replica

    def _ray(self, needed: bool) -> contextlib.AbstractContextManager:
        settings = self.settings
        if not needed or settings.server or (settings.dp == 1 and settings.ray_address is None):
            return contextlib.nullcontext()
        # Imported late: one engine on this machine needs no Ray.
        from evaluation.sampling import ray_replicas

        return ray_replicas.cluster(settings.ray_address, settings.dp, settings.tp)

    def _replica(self, opened: Opened, slot: int) -> Replica:
        settings, folder = self.settings, opened.target.folder
        if settings.server:
            # Imported late: only a server needs the client.
            from evaluation.sampling.server import ServerReplica

            return ServerReplica(
                settings.server,
                opened.model.name,
                self._engine(opened.model.name, settings),
                settings.concurrency,
                request_timeout=settings.request_timeout,
            )
        engine = self._engine(str(opened.model.path), settings)
        if settings.dp == 1 and settings.ray_address is None:
            return LocalReplica(engine, folder / "engine.log")
        from evaluation.sampling.ray_replicas import RayReplica

        return RayReplica(engine, folder / f"engine_{slot}.log", settings.tp)

    @staticmethod
    def _engine(model: str, settings: Settings) -> EngineSettings:
        names = ("temperature", "top_p", "top_k", "max_tokens", "max_model_len", "dtype", "gpu_memory_utilization")
        more = ("enforce_eager", "trust_remote_code", "max_num_seqs")
        chosen = {name: getattr(settings, name) for name in (*names, *more)}
        return EngineSettings(model=model, tokenizer=None, tensor_parallel=settings.tp, **chosen)

    def _take(self, job: Job, completions: list[Completion]) -> None:
        """Samples to disk first, then their verdicts."""
        sampling = self._by_job[id(job)]
        rows = [_row(completion, sampling.seeds[completion.key]) for completion in completions]
        sampling.store.append(rows)
        assert sampling.grader is not None
        for row in rows:
            sampling.grader.put(row)
        sampling.last = time.monotonic()
        sampling.tokens += sum(completion.tokens for completion in completions)
        sampling.samples += len(completions)
        if sampling.last - sampling.told > PROVENANCE_SECONDS:
            self._provenance(sampling)
            sampling.told = sampling.last
        assert self._bar is not None
        seconds = sampling.seconds
        self._bar.set_postfix_str(
            f"{job.name}, {sampling.tokens / seconds:,.0f} tokens/s" if seconds else job.name, False
        )
        self._bar.update(len(rows))

    def _finish(self, sampling: _Sampling) -> None:
        if sampling.grader:
            sampling.grader.close()
        self._provenance(sampling)
        grade_folder(sampling.opened.target.folder)
        write_results(sampling.opened.target.folder)

    def _provenance(self, sampling: _Sampling) -> None:
        """One entry a session, so that a resumed run tells of all its machines and of its time in all."""
        if not sampling.samples:
            return
        path = sampling.opened.target.folder / "provenance.json"
        sessions = [*sampling.sessions, self._session(sampling)]
        wall = sum(session["wall_seconds"] for session in sessions)
        tokens = sum(session["generated_tokens"] for session in sessions)
        write_json(
            path,
            {
                "versions": sessions[-1]["versions"],
                "machine": sessions[-1]["machine"],
                "dtype": sessions[-1]["dtype"],
                "wall_seconds": wall,
                "generated_tokens": tokens,
                "tokens_per_second": tokens / wall if wall else None,
                "sessions": sessions,
            },
        )

    def _session(self, sampling: _Sampling) -> dict:
        server = self.settings.server
        dtypes = [dtype for replica in sampling.replicas if (dtype := getattr(replica, "dtype", None))]
        return {
            "samples": sampling.samples,
            "generated_tokens": sampling.tokens,
            "wall_seconds": round(sampling.seconds, 3),
            "dtype": dtypes[-1] if dtypes else None,
            "versions": {name: number for name, number in versions().items() if not server or name in OURS},
            "machine": None if server else machine(),  # a server's is not known
            "engines": {"dp": self.settings.dp, "tp": self.settings.tp, "server": server},
        }

    def _note(self, text: str) -> None:
        """A line that leaves the progress bar whole."""
        tqdm.write(text, file=sys.stderr)


def _row(completion: Completion, seed: int) -> dict:
    benchmark, problem, sample = completion.key
    return {
        "benchmark": benchmark,
        "problem": problem,
        "sample": sample,
        "seed": seed,
        "text": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
    }
