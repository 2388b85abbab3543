"""`salf serve` as a process of its own, and clients that ask it all the time."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from salf_serving import free_port
from salf_serving.control import workers

SHARED_MEMORY = Path("/dev/shm")
SALF = Path(sys.executable).with_name("salf")


def process_tree(root: int) -> list[int]:
    """A process and all its descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def own_connections(port: int) -> set[str]:
    """Inodes of this process's sockets that are connected to a port of this host."""
    ours = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # gRPC closed it just now
            ours.add(path.readlink().name)
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[9] for line in lines if line[2].endswith(f":{port:04X}") and f"socket:[{line[9]}]" in ours}


def shared_memory_of(pid: int) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"salf_{pid}_*"))


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0, what: str = "it") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits for PID 1 to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def rss_mb(pids: list[int]) -> float:
    """Anonymous memory of processes together: what they hold themselves, without files and shared memory."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total / 1024


@dataclass(frozen=True)
class Served:
    """A running `salf serve`."""

    process: "subprocess.Popen[bytes]"
    port: int
    status_port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def tree(self) -> list[int]:
        return process_tree(self.process.pid)

    def triton(self) -> int:
        """tritonserver's process (not that of a trial)."""
        found = [pid for pid in self.tree() if "/tritonserver " in command_of(pid) and "explicit" in command_of(pid)]
        guards = [pid for pid in found if "guard.py" in command_of(pid)]
        return next(pid for pid in found if pid not in guards)

    def triton_port(self) -> int:
        """Triton's own gRPC port, behind the front."""
        words = command_of(self.triton()).split()
        return int(next(word.partition("=")[2] for word in words if word.startswith("--grpc-port=")))

    def nginx(self) -> int:
        """nginx's first process."""
        return next(pid for pid in self.tree() if "nginx: master" in command_of(pid))

    def worker(self) -> int:
        return next(iter(workers(self.triton())))

    def page(self, path: str) -> tuple[int, str]:
        """HTTP status and text of a page of the supervisor's."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """Sum over all series of a metric whose name and labels start so."""
        lines = [line for line in self.page("/metrics")[1].splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def is_ready(self) -> bool:
        return self.page("/readyz")[0] == 200

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def serving(
    repository: Path, folder: Path, *, nginx: Path, front: str = "", options: Sequence[str] = ()
) -> Iterator[Served]:
    """Run `salf serve` with a front; nothing of it may be left afterwards.

    Args:
        repository: models.
        folder: for logs and settings.
        nginx: the program.
        front: the front's settings, TOML.
        options: more words for the command line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "front.toml").write_text(front)
    port, status_port = free_port(), free_port()
    command = [SALF, "serve", repository, "--front-settings", folder / "front.toml", "--port", port,
               "--status-port", status_port, "--log-file", folder / "triton.log", "--threads", 1, *options]  # fmt: skip
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state"), "SALF_NGINX": str(nginx)}
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=environment)
    served = Served(process, port, status_port, folder)
    tree: list[int] = []
    try:
        wait_until(lambda: "stop it with" in served.log or process.poll() is not None, 90, "the start of salf serve")
        assert process.poll() is None, served.log
        yield served
    finally:
        tree = served.tree()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
    wait_until(lambda: all(is_gone(pid) for pid in tree), what="the end of all processes")
    wait_until(lambda: not shared_memory_of(process.pid), what="the removal of shared memory")
    assert not list((folder / "state" / "salf").glob("run-*")), "the run's folder was left behind"


def takes_connections(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def infer_request(images: np.ndarray, targets: np.ndarray, model: str = "tiny") -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, datatype, array in (("image", "UINT8", images), ("target", "INT32", targets)):
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, datatype
        tensor.shape.extend(array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def code_of(call, request, **options) -> tuple[str, str]:
    """gRPC status and message of a call."""
    try:
        call(request, timeout=20, **options)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def stub_on(address: str) -> tuple[grpc.Channel, service_pb2_grpc.GRPCInferenceServiceStub]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
               ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500),
               ("grpc.use_local_subchannel_pool", 1)]  # fmt: skip
    channel = grpc.insecure_channel(address, options=options)
    return channel, service_pb2_grpc.GRPCInferenceServiceStub(channel)


@dataclass
class Load:
    """What became of all requests: (second on the monotonic clock, gRPC code or "right" or "wrong", duration)."""

    outcomes: list[tuple[float, str, float]] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)

    def bad(self) -> list[tuple[float, str, float]]:
        return [outcome for outcome in self.outcomes if outcome[1] != "right"]

    def right_after(self, moment_s: float) -> bool:
        return any(code == "right" and at_s - took_s > moment_s for at_s, code, took_s in list(self.outcomes))


@contextmanager
def load(served: Served, tiny, *, clients: int = 3, deadline_s: float = 5.0, pause_s: float = 0.02) -> Iterator[Load]:
    """Clients that ask without end while a block runs; every answer is compared."""
    stop = threading.Event()
    seen = Load()

    def ask(number: int) -> None:
        channel, stub = stub_on(served.address)
        images, targets = tiny.images(1, number), np.full((1, 1), -1, np.int32)
        request = infer_request(images, targets)
        right = {version: tiny.answers(images, targets, version) for version in (1, 2)}
        while not stop.is_set():
            started_s = time.monotonic()
            try:
                answer = stub.ModelInfer(request, timeout=deadline_s)
                code = "right" if is_right(answer, right[int(answer.model_version)]) else "wrong"
                seen.versions.add(answer.model_version)
            except grpc.RpcError as error:
                code = f"{error.code().name}: {error.details()}"
            now_s = time.monotonic()
            seen.outcomes.append((now_s, code, now_s - started_s))
            time.sleep(pause_s)
        channel.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(deadline_s + 5)


def is_right(answer: service_pb2.ModelInferResponse, expected: dict[str, np.ndarray]) -> bool:
    got = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=True))
    return set(got) == set(expected) and all(
        np.allclose(np.frombuffer(got[name], array.dtype).reshape(array.shape), array, rtol=1e-5, atol=1e-4)
        for name, array in expected.items()
    )


def access_log(served: Served) -> list[dict]:
    """The front's access log; nginx writes it at most a second late."""
    time.sleep(1.2)
    return [json.loads(line) for line in (served.folder / f"front-{served.port}.log").read_text().splitlines()]
