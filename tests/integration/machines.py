"""Machines inside this one: each with its own network, processes, shared memory and Ray sockets (Linux namespaces).

They share the files and the host name, as the nodes of a cluster share a file system and containers share an image.
Needs no root where user namespaces are allowed. All are gone when the process that holds them ends.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

RAY = Path(sys.executable).parent / "ray"
INTERFACE = "eth0"  # of each machine in the network that connects them
STORE = str(100 * 2**20)  # bytes of a machine's object store
PRIVATE = ("--net", "--pid", "--mount", "--ipc", "--mount-proc", "--fork", "--kill-child")
INIT = "while :; do sleep 3600 & wait; done"  # the first process of a machine reaps those without a parent


class Machine:
    """One of them, by its first process. It ends with everything that runs on it."""

    def __init__(self, switch: int, number: int, ray_files: Path):
        """switch: process id in the namespaces in which the cables meet. ray_files: a path that leads to other files
        on each machine.
        """
        self.address, self.ray_files = f"10.77.0.{number}", ray_files
        private = ray_files.parent / str(number)
        private.mkdir()
        self._outer = subprocess.Popen([*_enter(switch), "unshare", *PRIVATE, "bash", "-c", INIT])
        while not (children := psutil.Process(self._outer.pid).children()):
            time.sleep(0.01)
        self.init, port = children[0].pid, f"port{number}"
        cable = ["ip", "link", "add", "name", port, "type", "veth", "peer", "name", INTERFACE, "netns", str(self.init)]
        for command in (cable, f"ip link set dev {port} master lan up".split()):
            subprocess.run([*_enter(switch), *command], check=True)
        self.run("mount", "--bind", str(private), str(ray_files))
        self.run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        self.run(*f"ip addr add {self.address}/24 dev {INTERFACE}".split())
        for interface in ("lo", INTERFACE):
            self.run(*f"ip link set dev {interface} up".split())
        self.run(*f"ip route add default dev {INTERFACE}".split())  # Ray and vLLM look for the address of this route

    def command(self, *command: str) -> list[str]:
        """`command`, to run there."""
        inside = ("nsenter", "--target", str(self.init), "--user", "--net", "--pid", "--mount", "--ipc")
        return [*inside, "--preserve-credentials", *command]

    def run(self, *command: str, **options) -> subprocess.CompletedProcess:
        """Run `command` there to a good end."""
        return subprocess.run(self.command(*command), check=True, text=True, **options)

    def start_ray(self, head: str | None, cpus: int, env: dict[str, str]) -> None:
        """Join the cluster at address `head`, with one virtual GPU, or start one (port 6379)."""
        role = ["--address", head] if head else ["--head", "--port", "6379", "--include-dashboard", "false"]
        role += [] if head else ["--temp-dir", str(self.ray_files)]
        size = ["--num-gpus", "1", "--num-cpus", str(cpus), "--object-store-memory", STORE]
        command = [str(RAY), "start", *role, *size, "--node-ip-address", self.address]
        self.run(*command, env=env, stdout=subprocess.DEVNULL, timeout=240)

    def processes(self, *titles: str) -> list[psutil.Process]:
        """Those that run there, or those whose command line has one of `titles`."""
        inside, found = os.readlink(f"/proc/{self.init}/ns/pid"), []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == inside:
                    words = " ".join(process.cmdline())
                    if not titles or any(title in words for title in titles):
                        found.append(process)
        return found

    def end(self) -> None:
        """Switch it off: its processes end without a farewell to anybody."""
        self._outer.kill()
        self._outer.wait()


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """Skip the test where this system does not allow them."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs unshare, nsenter and ip")
    folder = Path(tempfile.mkdtemp(prefix="rpg."))  # short: Ray's socket paths have a length limit
    ray_files = folder / "ray"
    ray_files.mkdir()
    ready = "ip link add name lan type bridge && ip link set dev lan up && echo ready && exec sleep infinity"
    switch = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "bash", "-c", ready], stdout=subprocess.PIPE, text=True
    )
    started: list[Machine] = []
    try:
        if switch.stdout.readline() != "ready\n":
            pytest.skip("network namespaces are not allowed here")
        for number in range(1, count + 1):
            started.append(Machine(switch.pid, number, ray_files))
        yield started
    finally:
        for machine in started:
            machine.end()
        switch.kill()
        switch.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _enter(pid: int) -> list[str]:
    return ["nsenter", "--target", str(pid), "--user", "--net", "--preserve-credentials"]
