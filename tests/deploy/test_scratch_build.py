"""The `cpu` image, built without a container engine and run as the manifests run it."""

import datetime as dt
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from salf_client import Client, Connection, Tls
from salf_serving import free_port
from tests.deploy import scratch_image
from tests.deploy.conftest import ROOT

TOKEN = "t" * 40
_PACKAGES = ("bubblewrap", "mmdebstrap")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> scratch_image.Image:
    if os.geteuid() == 0 and not all(map(shutil.which, ("bwrap", "mmdebstrap"))):
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        subprocess.run(["apt-get", "install", "-q", "--yes", *_PACKAGES], check=True, capture_output=True)
    work = tmp_path_factory.mktemp("images")
    base = scratch_image.debian("bookworm", work / "debian")
    return scratch_image.build(ROOT / "Dockerfile", target="cpu", bases={"DEBIAN_IMAGE": base}, work=work)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 and a file with one token, as Kubernetes mounts them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    for folder in ("tls", "tokens"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tls" / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "tls" / "tls.key").write_bytes(key.private_bytes(*pem))
    (tmp_path / "tokens" / "tokens").write_text(f"tests {TOKEN}\n")
    (tmp_path / "tokens" / "tokens").chmod(0o440)
    settings = (ROOT / "deploy" / "front.toml").read_text()
    (tmp_path / "front.toml").write_text(settings.replace('"0.0.0.0"', '"127.0.0.1"'))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_image_serves_as_an_ordinary_user_with_files_it_cannot_write(image, secrets):
    port, status_port, metrics_port = free_port(), free_port(), free_port()
    ports = {"8001": str(port), "8003": str(status_port), "8002": str(metrics_port), "0.0.0.0": "127.0.0.1"}
    command = [ports.get(word, word) for word in (*image.entrypoint, *image.command)]
    mounts = {
        "/models": ROOT / "model_repository",
        "/etc/salf/front.toml": secrets / "front.toml",
        "/etc/salf/tls": secrets / "tls",
        "/etc/salf/tokens": secrets / "tokens",
    }
    restrictions = ("--tmpfs", "/dev/shm", "--unshare-user", "--uid", "10001", "--gid", "10001", "--cap-drop", "ALL")
    words = scratch_image.run(image, *command, writable=False, mounts=mounts, extra=restrictions)
    assert image.user == 10001
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{status_port}/readyz", process)
            health = [word.replace("8003", str(status_port)) for word in image.healthcheck]
            asked = scratch_image.run(image, *health, writable=False, mounts={}, extra=restrictions)
            assert subprocess.run(asked).returncode == 0
            # What docs/alerts.md and docs/deployment.md tell people on call to run inside.
            for line in (
                f"salf top 127.0.0.1:{status_port} --once",
                "salf publish /models scenes --to /tmp/models && salf rollback /tmp/models scenes --to 1",
                "command -v tail && command -v tar",
            ):
                inside = ("/bin/sh", "-euc", line)
                asked = scratch_image.run(image, *inside, writable=False, mounts=mounts, extra=restrictions)
                ran = subprocess.run(asked, capture_output=True, text=True)
                assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
            connection = Connection(tls=Tls(ca=secrets / "tls" / "tls.crt"), token=TOKEN)
            with Client(f"localhost:{port}", connection=connection) as client:
                assert client.explain(ROOT / "demonstration" / "pictures" / "harbour.jpg").label == "harbour"
        finally:
            stop(process)
            output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output[-3000:]
    assert TOKEN not in output


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.stdout.read()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=4):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline_s, "not ready in time"
        time.sleep(0.3)


def stop(process: subprocess.Popen[str]) -> None:
    """Send SIGTERM to tini: bubblewrap, its parent's parent, passes no signals on."""
    found = [process.pid]
    for _ in range(2):
        found = [int(child) for pid in found for child in children_of(pid)] or found
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def children_of(pid: int) -> list[str]:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []
