"""ServerReplica against a hand-written server on loopback."""

import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evaluation.sampling.replicas import Completion, EngineSettings, ReplicaDied, ReplicaRefused, Request
from evaluation.sampling.server import ServerReplica, text_of

SETTINGS = EngineSettings(model="", temperature=0.7, top_p=0.9, max_tokens=32)
KEY = "sk-very-secret"
ROOT = Path(__file__).resolve().parents[3]


class FakeServer(ThreadingHTTPServer):
    """Answers POSTs with what `answers` says in turn (the last one for ever) and remembers what it was asked."""

    daemon_threads = True
    models = ("tiny",)

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict]] = []
        self.answers: list[Callable[[dict], tuple[int, dict]]] = [completion]
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """/v1/models and the two kinds of completions."""

    server: FakeServer

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        answers = self.server.answers
        self.reply(*(answers.pop(0) if len(answers) > 1 else answers[0])(body))

    def reply(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def completion(body: dict) -> tuple[int, dict]:
    """What was asked, said back."""
    if "messages" in body:
        choice = {"message": {"role": "assistant", "content": "chat: " + body["messages"][-1]["content"]}}
    else:
        choice = {"text": f"text: {body['prompt']} {body['seed']}"}
    usage = {"completion_tokens": 3, "prompt_tokens": 1, "total_tokens": 4}
    return 200, {"id": "1", "choices": [{"index": 0, "finish_reason": "stop"} | choice], "usage": usage}


def says(status: int, message: str) -> Callable[[dict], tuple[int, dict]]:
    """An error in OpenAI's form."""
    return lambda _: (status, {"error": {"message": message, "type": "fake"}})


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        threading.Thread(target=fake.serve_forever, args=(0.05,), daemon=True).start()
        yield fake
        fake.shutdown()


@pytest.fixture
def connect(monkeypatch) -> Iterator[Callable[..., ServerReplica]]:
    """A replica that is closed at the end."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    opened = []

    def start(url: str, model: str | None = None, settings: EngineSettings = SETTINGS, **options) -> ServerReplica:
        opened.append(ServerReplica(url, model, settings, **{"retries": 1, "request_timeout": 5} | options))
        opened[-1].start()
        return opened[-1]

    yield start
    for replica in opened:
        replica.close()
        replica.close()


def wait_ready(replica: ServerReplica) -> None:
    deadline = time.monotonic() + 20
    while not replica.ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def take(replica: ServerReplica, number: int) -> list[Completion]:
    found: list[Completion] = []
    deadline = time.monotonic() + 20
    while len(found) < number:
        assert time.monotonic() < deadline
        found += replica.poll(1.0)
    return found


def request(sample: int = 0, prompt: str | list[dict] = "2+2=") -> Request:
    return Request(("sums", "a", sample), prompt, None, 40 + sample)


def test_text_goes_to_completions_with_every_setting(server, connect):
    replica = connect(server.url)
    wait_ready(replica)
    replica.submit([request(i) for i in range(20)])
    found = take(replica, 20)
    assert {c.key: c.text for c in found} == {("sums", "a", i): f"text: 2+2= {40 + i}" for i in range(20)}
    assert {(c.tokens, c.finish_reason) for c in found} == {(3, "stop")}
    path, body = server.asked[0]
    assert path == "/v1/completions"
    assert {k: body[k] for k in ("model", "temperature", "top_p", "max_tokens")} == {
        "model": "tiny",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 32,
    }
    assert "top_k" not in body


def test_messages_go_to_chat_and_top_k_is_sent_when_set(server, connect):
    replica = connect(server.url, "tiny", EngineSettings(model="", top_k=20))
    wait_ready(replica)
    replica.submit([request(prompt=[{"role": "user", "content": "hello"}])])
    assert take(replica, 1)[0].text == "chat: hello"
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body["top_k"] == 20


def test_an_answer_without_usage_or_text_counts_no_tokens(server, connect):
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": None}}
    server.answers = [lambda _: (200, {"id": "1", "choices": [choice]})]
    replica = connect(server.url)
    wait_ready(replica)
    replica.submit([request(prompt=[{"role": "user", "content": "hello"}])])
    assert take(replica, 1) == [Completion(("sums", "a", 0), "", 0, "length")]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server, connect, status):
    server.answers = [says(status, "later"), completion]
    replica = connect(server.url)
    wait_ready(replica)
    replica.submit([request()])
    assert take(replica, 1)[0].finish_reason == "stop"
    assert len(server.asked) == 2


@pytest.mark.parametrize(("status", "fix"), [(429, "lower --concurrency"), (500, "is the server running?")])
def test_a_lasting_failure_ends_the_replica_with_what_came_before(server, connect, status, fix):
    server.answers = [completion, says(status, "no\nand no")]
    replica = connect(server.url, concurrency=1)
    wait_ready(replica)
    replica.submit([request(0), request(1)])
    assert len(take(replica, 1)) == 1
    with pytest.raises(ReplicaDied, match=rf"{server.url} answered {status}: .*no and no.*{fix}") as caught:
        take(replica, 1)
    assert not isinstance(caught.value, ReplicaRefused)
    assert "\n" not in str(caught.value)
    with pytest.raises(ReplicaDied):
        replica.submit([request(2)])


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_tried_again_and_hides_the_key(server, connect, status):
    server.answers = [says(status, f"not for {KEY}")]
    replica = connect(server.url)
    wait_ready(replica)
    replica.submit([request()])
    with pytest.raises(ReplicaRefused, match=rf"answered {status}: .*not for \*\*\*"):
        take(replica, 1)
    assert len(server.asked) == 1


def test_a_model_that_is_not_served(server, connect):
    with pytest.raises(ReplicaRefused, match=r"has no model 'big': name one of tiny with --model"):
        wait_ready(connect(server.url, "big"))
    server.models = ("one", "two")
    with pytest.raises(ReplicaRefused, match=r"name one of one, two"):
        wait_ready(connect(server.url))


def test_nothing_listens(connect):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ReplicaDied, match=rf"{url} cannot be reached .*is the server running"):
        wait_ready(connect(url, retries=0))


def test_a_server_that_hangs(server, connect):
    release = threading.Event()
    server.answers = [lambda _: (release.wait(10), completion({"prompt": "", "seed": 0}))[1]]
    replica = connect(server.url, request_timeout=2, retries=0)  # the list of models must come in it too
    wait_ready(replica)
    replica.submit([request()])
    with pytest.raises(ReplicaDied, match=r"did not answer in 2 s"):
        take(replica, 1)
    release.set()


def test_no_answer_at_all_ends_before_the_retries_do(server, connect):
    release = threading.Event()
    server.answers = [lambda _: (release.wait(10), completion({"prompt": "", "seed": 0}))[1]]
    replica = connect(server.url, request_timeout=2, retries=50, patience=0.6)
    wait_ready(replica)
    replica.submit([request()])
    with pytest.raises(ReplicaDied, match=r"answered nothing in 0\.6 s"):
        take(replica, 1)
    release.set()


def test_a_refused_prompt_is_a_sign_of_life(server, connect):
    """One prompt is answered and the others are refused, one after the other, for longer than the patience."""

    def refuse_slowly(body: dict) -> tuple[int, dict]:
        time.sleep(0.3)
        return says(400, "too long")(body)

    server.answers = [completion, refuse_slowly]
    replica = connect(server.url, concurrency=1, patience=0.8)
    wait_ready(replica)
    replica.submit([request(sample) for sample in range(6)])
    assert [each.finish_reason for each in take(replica, 6)] == ["stop", *["error"] * 5]


def test_poll_returns_after_its_timeout_and_close_drops_the_rest(server, connect):
    release = threading.Event()
    server.answers = [lambda _: (release.wait(10), completion({"prompt": "", "seed": 0}))[1]]
    replica = connect(server.url)
    wait_ready(replica)
    replica.submit([request()])
    started = time.monotonic()
    assert replica.poll(0.2) == []
    assert time.monotonic() - started < 5
    replica.close()
    with pytest.raises(ReplicaDied, match="is closed"):
        replica.poll(0.2)
    release.set()


def test_closing_in_the_middle_leaves_no_word_behind(server):
    """asyncio tells of tasks that outlive their loop when they are collected."""
    release = threading.Event()
    server.answers = [lambda _: (release.wait(10), completion({"prompt": "", "seed": 0}))[1]]
    program = f"""
        import gc, time
        from evaluation.sampling.replicas import EngineSettings, Request
        from evaluation.sampling.server import ServerReplica, text_of
        replica = ServerReplica({server.url!r}, None, EngineSettings(model=""), concurrency=4)
        replica.start()
        while not replica.ready():
            time.sleep(0.01)
        replica.submit([Request(("sums", "a", i), "2+2=", None, i) for i in range(40)])
        replica.poll(0.3)
        replica.close()
        gc.collect()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    release.set()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_no_completion(server, connect):
    server.answers = [lambda _: (200, "hello")]
    replica = connect(server.url)
    wait_ready(replica)
    replica.submit([request()])
    with pytest.raises(ReplicaDied, match=r"did not answer with a completion .*address ending in /v1"):
        take(replica, 1)


@pytest.mark.parametrize(
    ("content", "text"),
    [("a", "a"), (None, ""), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"), (["a"], "a")],
)
def test_a_message_in_parts_is_its_text(content, text):
    assert text_of(content) == text


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": {}}], {"text": "a"}, 7])
def test_a_message_that_is_no_text_is_refused(content):
    with pytest.raises(ValueError, match="a message's content is not text but"):
        text_of(content)
