"""A replica that is somebody else's: any server that speaks OpenAI's completions API.

A prompt that is text goes to /completions, a list of messages to /chat/completions. An answer without usage counts 0
tokens. 429, 5xx, timeouts and lost connections are tried again with the library's exponential backoff.
"""

import asyncio
import os
import queue
import threading
import time
import warnings
from collections.abc import Coroutine, Sequence
from typing import Any

import openai

from evaluation.sampling.replicas import Completion, EngineSettings, ReplicaDied, ReplicaRefused, Request, squeeze

BAD_PROMPT = (openai.BadRequestError, openai.UnprocessableEntityError)  # or settings that no prompt goes with
REFUSALS = (
    openai.BadRequestError,
    openai.AuthenticationError,
    openai.PermissionDeniedError,
    openai.NotFoundError,
    openai.UnprocessableEntityError,
)
NO_KEY = "EMPTY"  # what servers without one are sent
CONNECT_SECONDS = 10.0
PROBE_SECONDS = 30.0  # for the list of models, which costs a server nothing
BACKOFF_SECONDS = 60.0  # the library's pauses between nine tries are 40 s together
LEAVE_SECONDS = 5.0


class ServerReplica:
    """Samples from `model` (None: the only one there is) at `url`, at most `concurrency` requests at a time.

    `request_timeout` seconds bound one answer, `patience` the time in which none comes at all (twice as long, and no
    less than the pauses between tries); `retries` is the number of attempts after the first. The key is read from the
    variable `api_key_env` and never printed.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        settings: EngineSettings,
        concurrency: int = 64,
        api_key_env: str = "OPENAI_API_KEY",
        request_timeout: float = 1800,
        retries: int = 8,
        patience: float | None = None,
    ) -> None:
        self.url, self.model, self.settings = url.rstrip("/"), model, settings
        self.concurrency, self.timeout, self.retries = concurrency, request_timeout, retries
        self.patience = max(2 * request_timeout, BACKOFF_SECONDS) if patience is None else patience
        self.name = f"server {self.url}"
        self.capacity = 2 * concurrency  # the next ones wait here, not a round of dispatch away
        self._key_name, self._key = api_key_env, os.environ.get(api_key_env) or NO_KEY
        self._inbox: queue.SimpleQueue[Completion | ReplicaDied] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outstanding = 0
        self._refused: list[tuple[Request, Exception]] = []  # while it is not known whose fault it is
        self._has_answered = False
        self._heard = 0.0
        self._ready = threading.Event()
        self._failure: ReplicaDied | None = None

    def start(self) -> None:
        """Begin to look for the model."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(self._loop,), daemon=True)
        self._thread.start()
        limits = openai.Timeout(self.timeout, connect=min(CONNECT_SECONDS, self.timeout))
        self._client = openai.AsyncOpenAI(
            base_url=self.url, api_key=self._key, timeout=limits, max_retries=self.retries
        )
        self._gate = asyncio.Semaphore(self.concurrency)
        self._run(self._find_model())

    def ready(self) -> bool:
        """True once the model is found. Raises if something else was found."""
        if not self._ready.is_set():
            self._drain(0.0)
            if self._failure:
                raise self._failure
        return self._ready.is_set()

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests over."""
        if self._failure:
            raise self._failure
        if not self._outstanding:
            self._heard = time.monotonic()
        self._outstanding += len(requests)
        for request in requests:
            self._run(self._sample(request))

    def poll(self, timeout: float) -> list[Completion]:
        """Completions, as soon as there is one; a failure is raised once those before it are handed out."""
        completions = self._drain(0.0 if self._failure else timeout)
        if completions:
            self._heard = time.monotonic()
        elif self._failure:
            raise self._failure
        elif self._outstanding and time.monotonic() - self._heard > self.patience:
            self._failure = ReplicaDied(f"{self.url} answered nothing in {self.patience:g} s: is it overloaded?")
            raise self._failure
        return completions

    def close(self) -> None:
        """Drop the open requests; the server stays."""
        loop, self._loop = self._loop, None
        self._failure = self._failure or ReplicaDied(f"{self.name} is closed")
        if loop:
            # anyio's connection attempts that are cancelled before they begin would be told of.
            warnings.filterwarnings("ignore", r"coroutine 'connect_tcp\b.*never awaited", RuntimeWarning)
            asyncio.run_coroutine_threadsafe(self._leave(), loop)
            self._thread.join(LEAVE_SECONDS)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            work.close()
            raise ReplicaDied(f"{self.name} was not started")
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def _drain(self, timeout: float) -> list[Completion]:
        """Everything that is there, waiting `timeout` seconds for the first."""
        completions: list[Completion] = []
        try:
            while not self._failure:
                item = self._inbox.get(block=timeout > 0 and not completions, timeout=timeout or None)
                if isinstance(item, ReplicaDied):
                    self._failure = item
                else:
                    completions.append(item)
        except queue.Empty:
            pass
        self._outstanding -= len(completions)
        return completions

    async def _find_model(self) -> None:
        try:
            quick = self._client.with_options(
                max_retries=min(3, self.retries), timeout=min(PROBE_SECONDS, self.timeout)
            )
            names = [model.id async for model in quick.models.list()]
            if self.model is None and len(names) == 1:
                self.model = names[0]
            if self.model not in names:
                self._inbox.put(ReplicaRefused(self._no_model(names)))
                return
            self._ready.set()
        except Exception as error:
            self._inbox.put(self._explain(error))

    def _no_model(self, names: list[str]) -> str:
        asked = f"has no model {self.model!r}" if self.model else "serves not one model but several or none"
        return squeeze(f"{self.url} {asked}: name one of {', '.join(names) or '(none)'} with --model")

    async def _sample(self, request: Request) -> None:
        async with self._gate:
            try:
                self._inbox.put(await self._ask(request))
                self._has_answered = True
            except BAD_PROMPT as error:
                self._refused.append((request, error))
            except Exception as error:
                self._inbox.put(self._explain(error))
        self._settle_refused()

    def _settle_refused(self) -> None:
        """A refused prompt costs its own sample where others are answered; where none is, it is the run's fault."""
        if self._has_answered:
            for request, _ in self._refused:
                self._inbox.put(Completion(request.key, "", 0, "error"))
            self._refused.clear()
        elif self._refused and len(self._refused) == self._outstanding:
            self._inbox.put(self._explain(self._refused[0][1]))

    async def _ask(self, request: Request) -> Completion:
        s = self.settings
        common: dict[str, Any] = {"model": self.model, "seed": request.seed, "max_tokens": s.max_tokens}
        common |= {"temperature": s.temperature, "top_p": s.top_p}
        if s.top_k != -1:
            common["extra_body"] = {"top_k": s.top_k}  # not OpenAI's, but vLLM's, SGLang's, llama.cpp's
        if isinstance(request.prompt, str):
            answer = await self._client.completions.create(prompt=request.prompt, **common)
            text = answer.choices[0].text
        else:
            answer = await self._client.chat.completions.create(messages=request.prompt, **common)
            text = text_of(answer.choices[0].message.content)
        tokens = answer.usage.completion_tokens if answer.usage else 0
        return Completion(request.key, text or "", tokens or 0, answer.choices[0].finish_reason or "error")

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.close()

    async def _leave(self) -> None:
        """Every task has ended before the loop does: one that has not would say so on the user's terminal."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()
        asyncio.get_running_loop().stop()

    def _hide_key(self, text: str) -> str:
        return text if self._key == NO_KEY else text.replace(self._key, "***")

    def _explain(self, error: Exception) -> ReplicaDied:
        """One line with the address, what came back and what to do; never the key."""
        if isinstance(error, openai.APIStatusError):
            problem = f"{self.url} answered {error.status_code}: {self._hide_key(squeeze(error.message))}"
        elif isinstance(error, openai.APITimeoutError):
            problem = f"{self.url} did not answer in {self.timeout:g} s"
        elif isinstance(error, openai.APIConnectionError):
            problem = f"{self.url} cannot be reached ({squeeze(error.__cause__ or error)})"
        else:
            problem = f"{self.url} answered what is no completion ({type(error).__name__}: {squeeze(error)})"
            return ReplicaDied(f"{problem}  (is it an OpenAI-compatible server, its address ending in /v1?)")
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ReplicaRefused(f"{problem}  (set {self._key_name})")
        if isinstance(error, openai.NotFoundError):
            return ReplicaRefused(f"{problem}  (is it the address that ends in /v1, and is the model served?)")
        if isinstance(error, REFUSALS):
            return ReplicaRefused(problem)
        if isinstance(error, openai.RateLimitError):
            return ReplicaDied(f"{problem}  (tried {self.retries + 1} times: lower --concurrency)")
        return ReplicaDied(f"{problem}  (tried up to {self.retries + 1} times: is the server running?)")


def text_of(content: Any) -> str:
    """The text of a message, which some servers send as a list of parts. ValueError for anything else."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
    if content is None or isinstance(content, str):
        return content or ""
    raise ValueError(f"a message's content is no text but {squeeze(content)}")


def served_model(url: str, model: str | None) -> str:
    """The name of the model at `url`: `model` if it is served, or the only one there is. ReplicaDied otherwise."""
    replica = ServerReplica(url, model, EngineSettings(""))
    try:
        replica.start()
        while not replica.ready():
            time.sleep(0.05)
        assert replica.model is not None
        return replica.model
    finally:
        replica.close()
