"""A cluster that is none, for the shell scripts: hand-made `ray`, `srun`, `scontrol`, `hostname`; no real evaluation.

What they were asked stands in FAKE_CLUSTER/log, a line each. FAKE_JOB says how a job ends: SUCCEEDED, FAILED, STOPPED,
LOST (its log ends while it runs, and it succeeds a little later) or LONG (it runs until it is stopped). FAKE_DEAD:
`head` or `worker` is what does not come up.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ.get("FAKE_CLUSTER", "."))
NODES = ["node1", "node2"]


def install(folder: Path) -> dict[str, str]:
    """The environment in which scripts see the fakes before anything real."""
    commands, modules = folder / "bin", folder / "modules"
    for each in (commands, modules):
        each.mkdir(parents=True)
    for name in ("ray", "srun", "scontrol", "hostname", "python"):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).resolve()} {name} "$@"\n')
        command.chmod(0o755)
    (modules / "ray.py").write_text(
        "import os\n"
        "def init(address, **options): pass\n"
        "def nodes(): return [{'Alive': True} for _ in open(os.environ['FAKE_CLUSTER'] + '/nodes')]\n"
    )
    return {"FAKE_CLUSTER": str(folder), "PATH": f"{commands}:{os.environ['PATH']}", "FAKE_MODULES": str(modules)}


def log(*words: str) -> None:
    with (STATE / "log").open("a") as file:
        file.write(" ".join(words) + "\n")


class Dashboard(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/api/version":
            return self.answer({})
        job = STATE / self.path.rsplit("/", 1)[1]
        if not job.exists():
            return self.send_error(404)
        states = job.read_text().split()
        job.write_text(" ".join(states[1:] or states))
        return self.answer({"status": states[0]})

    def answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


def start(options: dict[str, str]) -> None:
    kind, node = "head" if "--head" in options else "worker", os.environ.get("FAKE_NODE", "here")
    if os.environ.get("FAKE_DEAD") == kind:
        sys.exit(f"{kind} on {node}: this node is broken")
    signal.signal(signal.SIGTERM, lambda *_: (log(kind, "on", node, "ends"), sys.exit(0)))
    with (STATE / "nodes").open("a") as file:
        file.write(node + "\n")
    log(kind, "on", node, "at", options.get("--address") or options.get("--port", ""))
    if kind == "head":
        http.server.HTTPServer(("127.0.0.1", int(options["--dashboard-port"])), Dashboard).serve_forever()
    signal.pause()


def submit(options: dict[str, str], command: list[str]) -> None:
    job, ending = STATE / options["--submission-id"], os.environ.get("FAKE_JOB", "SUCCEEDED")
    log("submit to", options["--address"], *command)
    job.write_text({"LOST": "RUNNING RUNNING SUCCEEDED", "LONG": "RUNNING"}.get(ending, ending))
    while ending == "LONG" and job.read_text() != "STOPPED":
        time.sleep(0.05)
    sys.exit(ending == "FAILED")


def evaluate(words: list[str]) -> None:
    """`python`: the evaluation's two long commands are noted only; everything else is the real interpreter's."""
    if words[:1] == ["-m"] and words[1] in ("evaluation.run", "evaluation.report"):
        return log(*words[1:])
    path = os.pathsep.join(filter(None, (os.environ["FAKE_MODULES"], os.environ.get("PYTHONPATH"))))
    os.execve(sys.executable, [sys.executable, *words], {**os.environ, "PYTHONPATH": path})


def main(name: str, words: list[str]) -> None:
    split = words.index("--") if "--" in words else len(words)
    given, command = words[:split], words[split + 1 :]
    options = {word: value for word, value in zip(given, [*given[1:], ""], strict=True) if word.startswith("--")}
    if name == "python":
        evaluate(words)
    elif name == "scontrol":
        print("\n".join(NODES))
    elif name == "hostname":
        print("127.0.0.1 10.0.0.1")
    elif name == "srun":  # --overlap --nodes 1 --ntasks 1 --nodelist NODE COMMAND...
        assert words[:6] == ["--overlap", "--nodes", "1", "--ntasks", "1", "--nodelist"], words
        assert words[6] in NODES, words
        step = subprocess.Popen(words[7:], env={**os.environ, "FAKE_NODE": words[6]})
        signal.signal(signal.SIGTERM, lambda *_: step.terminate())  # as srun passes it on
        sys.exit(step.wait())
    elif words[0] == "start":
        start(options)
    elif words[:2] == ["job", "submit"]:
        submit(options, command)
    elif words[:2] == ["job", "stop"]:
        log("stop")
        (STATE / words[-1]).write_text("STOPPED")
    else:
        sys.exit(f"{name} {words}: not faked")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
