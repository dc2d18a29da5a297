"""Draw the missing samples of every target with engines that never drain.

Samples are written to disk and graded as they finish.
"""

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from evaluation.grading.graded_folder import SampleGrader, grade_folder
from evaluation.interruption import postponed
from evaluation.provenance import OURS, machine, positions, versions
from evaluation.sampling.dispatch import Dispatcher, Job
from evaluation.sampling.local_replica import LocalReplica
from evaluation.sampling.replicas import Completion, EngineSettings, Replica, Request
from evaluation.scores.results import write_results
from evaluation.settings import Settings
from evaluation.store import SampleStore, read_json, write_json
from evaluation.targets import Opened

PROVENANCE_SECONDS = 30.0  # between two writes while samples arrive; a kill loses at most this much


def sample(settings: Settings, targets: Sequence[Opened]) -> dict[Path, str]:
    """Sample and grade every target -> errors by folder of the targets that could not be finished."""
    errors = {}
    with contextlib.ExitStack() as stack:
        samplings = []
        for opened in targets:
            try:
                samplings.append(Sampling(settings, opened, stack))
            except (ValueError, OSError) as error:
                errors[opened.target.folder] = str(error)
        planned = sum(len(sampling.opened.rows) for sampling in samplings) * settings.n
        missing = sum(sampling.remaining for sampling in samplings)
        with postponed():
            stack.enter_context(ray_for(settings) if missing else contextlib.nullcontext())
        bar = stack.enter_context(
            tqdm(total=planned, initial=planned - missing, unit="sample", desc="sampling", disable=not missing)
        )
        # Computes votes and intervals of a finished checkpoint while the next one is sampled.
        finisher = stack.enter_context(ThreadPoolExecutor(1))
        for sampling in samplings:
            sampling.bar, sampling.finisher = bar, finisher
        try:
            with postponed() as check:
                Dispatcher(samplings, 1 if settings.server else settings.dp, check).run()
            for sampling in samplings:
                try:
                    sampling.ending.result()
                except (ValueError, OSError) as error:
                    sampling.error = sampling.error or str(error)
        except BaseException:
            # What is on disk stays; a rerun grades it and resumes.
            finisher.shutdown(wait=False, cancel_futures=True)
            for sampling in samplings:
                sampling.abandon()
            raise
    return errors | {sampling.folder: sampling.error for sampling in samplings if sampling.error}


class Sampling(Job):
    """Job of one target, with its open files."""

    bar: tqdm
    finisher: ThreadPoolExecutor
    ending: Future

    def __init__(self, settings: Settings, opened: Opened, stack: contextlib.ExitStack) -> None:
        """Open the folder; ValueError or OSError if it cannot be resumed."""
        self.settings, self.opened, self.folder = settings, opened, opened.target.folder
        self.store = stack.enter_context(contextlib.closing(SampleStore(self.folder)))
        super().__init__(self.folder.name, self._missing())
        self.grader = stack.enter_context(contextlib.closing(SampleGrader(self.folder))) if self.pending else None
        path = self.folder / "provenance.json"
        self.sessions: list[dict] = read_json(path)["sessions"] if path.exists() else []  # earlier ones
        self.replicas: list[Replica] = []
        self.provenance_time = float("-inf")  # when provenance.json was last written
        self.last = 0.0
        self.tokens = self.samples = 0

    def _missing(self) -> deque[Request]:
        settings, prompter = self.settings, self.opened.prompter
        pending, longest = deque(), 0
        for row in self.opened.rows:
            keys = [(row["benchmark"], row["problem"], sample) for sample in range(settings.n)]
            keys = [key for key in keys if key not in self.store.done]
            ids = prompter.token_ids(row["prompt"]) if keys and prompter.tokenizer is not None else None
            longest = max(longest, len(ids or ()))
            pending.extend(Request(key, row["prompt"], ids, seed_of(settings.seed, *key)) for key in keys)
        room = settings.max_model_len or positions(self.opened.path)
        if room and longest >= room:
            raise ValueError(
                f"a prompt of {longest} tokens leaves no room for a response in {room} (--max-model-len, or the "
                "model's own): use a shorter --prompt, or a model with a longer context"
            )
        return pending

    @property
    def seconds(self) -> float:
        """Seconds from the first request given to an engine, after its start, to the last sample."""
        return max(self.last - self.started, 0.0) if self.started else 0.0

    def make_replica(self, slot: int) -> Replica:
        """An engine or the server's client, not started."""
        self.replicas.append(replica_of(self.settings, self.opened, slot))
        return self.replicas[-1]

    def take(self, completions: list[Completion]) -> None:
        """Write samples to disk, then grade them."""
        rows = [_row(completion, self.settings.seed) for completion in completions]
        self.store.append(rows)
        assert self.grader is not None
        for row in rows:
            self.grader.put(row)
        self.last = time.monotonic()
        self.tokens += sum(completion.tokens for completion in completions)
        self.samples += len(completions)
        if self.last - self.provenance_time > PROVENANCE_SECONDS:
            self._provenance()
            self.provenance_time = self.last
        rate = f", {self.tokens / self.seconds:,.0f} tokens/s" if self.seconds else ""
        self.bar.set_postfix_str(self.name + rate, False)
        self.bar.update(len(rows))

    def end(self) -> None:
        """Grade, count votes and write the results, in the finisher's thread."""
        self.ending = self.finisher.submit(self._finish)

    def abandon(self) -> None:
        """Record the session; everything on disk is kept."""
        if self.grader:
            self.grader.close()
        with contextlib.suppress(OSError):
            self._provenance()

    def _finish(self) -> None:
        if self.grader:
            self.grader.close()
        self._provenance()
        grade_folder(self.folder)
        write_results(self.folder)

    def _provenance(self) -> None:
        """Write one entry per session, so that a resumed run lists all its machines and its total time."""
        if not self.samples:
            return
        server = self.settings.server
        dtypes = [replica.dtype for replica in self.replicas if replica.dtype]
        session = {
            "samples": self.samples,
            "generated_tokens": self.tokens,
            "wall_seconds": round(self.seconds, 3),
            "dtype": dtypes[-1] if dtypes else None,
            "versions": {name: number for name, number in versions().items() if not server or name in OURS},
            "machine": None if server else machine(),  # unknown for a server
            "engines": {"dp": self.settings.dp, "tp": self.settings.tp, "server": server},
        }
        sessions = [*self.sessions, session]
        wall = sum(session["wall_seconds"] for session in sessions)
        tokens = sum(session["generated_tokens"] for session in sessions)
        totals = {
            "wall_seconds": wall,
            "generated_tokens": tokens,
            "tokens_per_second": tokens / wall if wall else None,
        }
        latest = {name: session[name] for name in ("versions", "machine", "dtype")}
        write_json(self.folder / "provenance.json", latest | totals | {"sessions": sessions})


def ray_for(settings: Settings) -> contextlib.AbstractContextManager:
    """The Ray cluster that these settings need, if any."""
    if settings.server or (settings.dp == 1 and settings.ray_address is None):
        return contextlib.nullcontext()
    # Imported late: one engine on this machine needs no Ray.
    from evaluation.sampling.ray_replicas import cluster

    return cluster(settings.ray_address, settings.dp, settings.tp)


def replica_of(settings: Settings, opened: Opened, slot: int) -> Replica:
    """A replica of a model, not started; with several replicas the log's name has the slot."""
    model = opened.name if settings.server else str(opened.path)
    names = [each.name for each in fields(EngineSettings) if each.name != "model"]
    engine = EngineSettings(model, **{name: getattr(settings, name) for name in names})
    if settings.server:
        # Imported late: only a server needs the client.
        from evaluation.sampling.server import ServerReplica

        return ServerReplica(settings.server, model, engine, settings.concurrency, settings.request_timeout)
    if settings.dp == 1 and settings.ray_address is None:
        return LocalReplica(engine, opened.target.folder / "engine.log")
    from evaluation.sampling.ray_replicas import RayReplica

    return RayReplica(engine, opened.target.folder / f"engine_{slot}.log")


def seed_of(seed: int, benchmark: str, problem: str, sample: int) -> int:
    """Seed of one sample, independent of which other samples are drawn.

    It has 31 bits: torch's CPU generator reads no more than 32 of a seed, and some servers refuse larger ones.
    """
    digest = hashlib.sha256(f"{seed}\0{benchmark}\0{problem}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _row(completion: Completion, seed: int) -> dict:
    benchmark, problem, sample = completion.key
    return {
        "benchmark": benchmark,
        "problem": problem,
        "sample": sample,
        "seed": seed_of(seed, *completion.key),
        "text": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
    }
