"""Replica at an external server with OpenAI's completions API.

A text prompt goes to /completions, a list of messages to /chat/completions. An answer without usage counts 0 tokens.
The library retries 429, 5xx, timeouts and lost connections with exponential backoff.
"""

import asyncio
import concurrent.futures
import os
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

import openai

from evaluation.sampling.replicas import (
    Completion,
    EngineSettings,
    Replica,
    ReplicaDied,
    ReplicaRefused,
    Request,
    squeeze,
)

BAD_PROMPT = (openai.BadRequestError, openai.UnprocessableEntityError)  # or bad settings, which fail with every prompt
KEY_NAME = "OPENAI_API_KEY"
NO_KEY = "EMPTY"  # sent to servers without a key
CONNECT_SECONDS = 10.0
PROBE_SECONDS = 30.0  # for the list of models, which a server sends at once
BACKOFF_SECONDS = 60.0  # above the library's pauses between nine attempts, 40 s in total
LEAVE_SECONDS = 5.0


class ServerReplica(Replica):
    """Samples from `model` (None: the server's only one) at `url`, at most `concurrency` requests at a time.

    One answer may take `request_timeout` seconds. The server counts as dead after `patience` seconds without an answer
    (default: twice the timeout, at least BACKOFF_SECONDS). `retries` counts the attempts after the first. The key is
    read from OPENAI_API_KEY and never printed. Requests run in a thread, as grading between two polls takes time.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        settings: EngineSettings,
        concurrency: int = 64,
        request_timeout: float = 1800,
        retries: int = 8,
        patience: float | None = None,
    ) -> None:
        self.url, self.model, self.settings = url.rstrip("/"), model, settings
        self.timeout, self.retries = request_timeout, retries
        patience = max(2 * request_timeout, BACKOFF_SECONDS) if patience is None else patience
        # Twice `concurrency`, so that the next requests are here when one ends.
        super().__init__(f"server {self.url}", 2 * concurrency, float("inf"), patience)
        self._key = os.environ.get(KEY_NAME) or NO_KEY
        self._gate = asyncio.Semaphore(concurrency)
        self._asked: dict[concurrent.futures.Future[Completion], Request] = {}
        self._refused: list[tuple[Request, BaseException]] = []  # until a prompt is answered or all are refused
        self._has_answered = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def _open(self) -> None:
        """Start the thread, and look the model up."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), daemon=True)
        self._thread.start()
        limits = openai.Timeout(self.timeout, connect=min(CONNECT_SECONDS, self.timeout))
        self._client = openai.AsyncOpenAI(
            base_url=self.url, api_key=self._key, timeout=limits, max_retries=self.retries
        )
        self._search = asyncio.run_coroutine_threadsafe(self._find_model(), self._loop)

    def _send(self, requests: Sequence[Request]) -> None:
        assert self._loop is not None
        for request in requests:
            self._asked[asyncio.run_coroutine_threadsafe(self._ask(request), self._loop)] = request

    def _receive(self, timeout: float) -> list[Completion]:
        futures = [*self._asked] if self._search.done() else [self._search]
        if futures:
            concurrent.futures.wait(futures, timeout, concurrent.futures.FIRST_COMPLETED)
        else:
            time.sleep(timeout)
        completions = []
        for future in [future for future in self._asked if future.done()]:
            request, error = self._asked.pop(future), future.exception()
            if error is None:
                completions.append(future.result())
            elif isinstance(error, BAD_PROMPT):
                self._refused.append((request, error))
            else:
                self._failure = self._failure or self._explain(error)
        if completions:
            self._has_answered = True
        # If others are answered, a refused prompt fails only its own sample; if none is, the run fails.
        if self._has_answered:
            completions += [Completion(request.key, "", 0, "error") for request, _ in self._refused]
            self._refused.clear()
        elif self._refused and not self._asked:
            self._failure = self._failure or self._explain(self._refused[0][1])
        if completions:  # a refusal is a sign of life too
            self._heard = time.monotonic()
        return completions

    def _leave(self) -> None:
        """Cancel the open requests; the server keeps running."""
        loop, self._loop = self._loop, None
        if loop:
            # anyio would warn of connection attempts that are cancelled before they begin.
            warnings.filterwarnings("ignore", r"coroutine 'connect_tcp\b.*never awaited", RuntimeWarning)
            asyncio.run_coroutine_threadsafe(self._stop(), loop)
            self._thread.join(LEAVE_SECONDS)

    async def _stop(self) -> None:
        """Cancel every task before the loop stops, since asyncio warns of unfinished ones."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()
        asyncio.get_running_loop().stop()

    def _silence(self) -> ReplicaDied:
        return ReplicaDied(f"{self.url} answered nothing in {self.stall_seconds:g} s: is it overloaded?")

    async def _find_model(self) -> None:
        try:
            quick = self._client.with_options(
                max_retries=min(3, self.retries), timeout=min(PROBE_SECONDS, self.timeout)
            )
            names = [model.id async for model in quick.models.list()]
            if self.model is None and len(names) == 1:
                self.model = names[0]
            if self.model not in names:
                self._failure = ReplicaRefused(self._no_model(names))
            else:
                self._is_ready = True
        except Exception as error:
            self._failure = self._explain(error)

    def _no_model(self, names: list[str]) -> str:
        asked = f"has no model {self.model!r}" if self.model else "does not serve exactly one model"
        return squeeze(f"{self.url} {asked}: name one of {', '.join(names) or '(none)'} with --model")

    async def _ask(self, request: Request) -> Completion:
        s = self.settings
        common: dict[str, Any] = {"model": self.model, "seed": request.seed, "max_tokens": s.max_tokens}
        common |= {"temperature": s.temperature, "top_p": s.top_p}
        if s.top_k != -1:
            common["extra_body"] = {"top_k": s.top_k}  # not OpenAI's, but vLLM's, SGLang's, llama.cpp's
        if isinstance(request.prompt, str):
            async with self._gate:
                answer = await self._client.completions.create(prompt=request.prompt, **common)
            text = answer.choices[0].text
        else:
            async with self._gate:
                answer = await self._client.chat.completions.create(messages=request.prompt, **common)
            text = text_of(answer.choices[0].message.content)
        tokens = answer.usage.completion_tokens if answer.usage else 0
        return Completion(request.key, text or "", tokens or 0, answer.choices[0].finish_reason or "error")

    def _hide_key(self, text: str) -> str:
        return text if self._key == NO_KEY else text.replace(self._key, "***")

    def _explain(self, error: BaseException) -> ReplicaDied:
        """Failure in one line: the address, the error and what to do; never the key."""
        if isinstance(error, openai.APIStatusError):
            problem = f"{self.url} answered {error.status_code}: {self._hide_key(squeeze(error.message))}"
        elif isinstance(error, openai.APITimeoutError):
            problem = f"{self.url} did not answer in {self.timeout:g} s"
        elif isinstance(error, openai.APIConnectionError):
            problem = f"{self.url} cannot be reached ({squeeze(error.__cause__ or error)})"
        else:
            problem = f"{self.url} did not answer with a completion ({type(error).__name__}: {squeeze(error)})"
            return ReplicaDied(f"{problem}  (is it an OpenAI-compatible server, its address ending in /v1?)")
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ReplicaRefused(f"{problem}  (set {KEY_NAME})")
        if isinstance(error, openai.NotFoundError):
            return ReplicaRefused(f"{problem}  (is it the address that ends in /v1, and is the model served?)")
        if isinstance(error, BAD_PROMPT):
            return ReplicaRefused(problem)
        if isinstance(error, openai.RateLimitError):
            return ReplicaDied(f"{problem}  (tried {self.retries + 1} times: lower --concurrency)")
        return ReplicaDied(f"{problem}  (tried up to {self.retries + 1} times: is the server running?)")


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def text_of(content: Any) -> str:
    """The text of a message, which some servers send as a list of parts. ValueError for anything else."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
    if content is None or isinstance(content, str):
        return content or ""
    raise ValueError(f"a message's content is not text but {squeeze(content)}")
