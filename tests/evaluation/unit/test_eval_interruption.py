"""Ctrl-C and SIGTERM as a process gets them: one line, the right status, and nothing left running."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def interruptible() -> None:
    """Before the program starts: a background shell, such as CI's, has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def program(tmp_path):
    """Start a module, as the commands do, in a process group of its own; it says when it is under way."""
    opened = []

    def start(body: str, before=interruptible) -> subprocess.Popen[str]:
        (tmp_path / "body.py").write_text(textwrap.dedent(body), encoding="utf-8")
        code = (
            "import sys; from evaluation.interruption import program; sys.exit(program('it', 'body', 'all is kept'))"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
            preexec_fn=before,
        )
        opened.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in opened:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


WAITS = """
    import time
    def main():
        try:
            print("begun", flush=True)
            time.sleep(60)
        finally:
            time.sleep(0.3)
            print("closed", flush=True)
"""


@pytest.mark.parametrize(
    ("numbers", "status", "word"),
    [
        ([signal.SIGINT], 130, "interrupted"),
        ([signal.SIGTERM], 143, "terminated"),
        ([signal.SIGINT, signal.SIGINT, signal.SIGTERM], 130, "interrupted"),
    ],
)
def test_one_line_and_a_status_whatever_follows_the_first(program, numbers, status, word):
    process = program(WAITS)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    said, error = process.communicate(timeout=30)
    assert (process.returncode, said, error) == (status, "closed\n", f"it: error: {word}; all is kept\n")


def test_while_libraries_load(program):
    process = program("print('begun', flush=True)\nimport time\ntime.sleep(60)\n")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "it: error: interrupted; all is kept\n"


def test_what_a_library_makes_of_it_is_still_an_interruption(program):
    process = program("""
        import time
        def main():
            try:
                print("begun", flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                raise ValueError("half imported") from None
    """)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "it: error: interrupted; all is kept\n"
    assert process.returncode == 130


def test_postponed(program):
    process = program("""
        import time
        from evaluation.interruption import postponed
        def main():
            with postponed() as check:
                print("begun", flush=True)
                end = time.monotonic() + 0.5
                while time.monotonic() < end:
                    time.sleep(0.01)
                print("whole", flush=True)
                check()
                print("never", flush=True)
    """)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=30)
    assert (said, error) == ("whole\n", "it: error: interrupted; all is kept\n")


def test_an_ignored_signal_stays_ignored(program):
    body = "def main():\n    print('begun', flush=True)\n    print(input())\n"
    process = program(body.replace("input()", "__import__('time').sleep(1)"), lambda: signal.signal(2, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=30)
    assert (process.returncode, said, error) == (0, "None\n", "")


def test_an_error_that_is_no_interruption_is_shown(program):
    process = program("def main():\n    print('begun', flush=True)\n    raise ValueError('a bug')\n")
    assert "ValueError: a bug" in process.communicate(timeout=30)[1]
    assert process.returncode == 1
