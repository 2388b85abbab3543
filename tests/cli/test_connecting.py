"""How commands reach servers: the same options and variables for each."""

import datetime as dt
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from demonstration.paths import ROOT
from salf_cli.main import app
from salf_client.testing import mock_server

PICTURES = ROOT / "demonstration" / "pictures"
VARIABLES = ("URL", "TOKEN", "TLS", "TLS_CA", "TLS_CERTIFICATE", "TLS_KEY", "TLS_NAME")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(f"SALF_{name}", raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1 that signs itself, for server and client alike: (certificate, key), PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "salf test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tls")
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
def server(certificate):
    """A server that wants a certificate of its callers."""
    chain, key = (path.read_bytes() for path in certificate)
    credentials = grpc.ssl_server_credentials([(key, chain)], root_certificates=chain, require_client_auth=True)
    with mock_server(classes=["a", "b"], concepts=["c", "d"], credentials=credentials) as running:
        yield running


def run(*words, **variables):
    return CliRunner().invoke(app, [str(word) for word in words], env=variables)


def test_every_command_takes_certificates_by_option_and_by_variable(server, certificate, tmp_path):
    chain, key = certificate
    options = ["--url", server.address, "--tls-ca", chain, "--tls-certificate", chain, "--tls-key", key]
    variables = {
        "SALF_URL": server.address, "SALF_TLS_CA": str(chain), "SALF_TLS_CERTIFICATE": str(chain),
        "SALF_TLS_KEY": str(key), "SALF_TOKEN": "secret",
    }  # fmt: skip
    commands = (
        ("explain", PICTURES / "farm.jpg"),
        ("models",),
        ("score", PICTURES / "farm.jpg", "--out"),
    )
    for number, command in enumerate(commands):
        where = [tmp_path / f"{number}-options", tmp_path / f"{number}-variables"] if "score" in command else [[], []]
        by_option = run(*command, *([where[0]] if where[0] else []), *options, "--json")
        assert by_option.exit_code == 0, by_option.output
        by_variable = run(*command, *([where[1]] if where[1] else []), "--json", **variables)
        assert by_variable.exit_code == 0, by_variable.output


def test_a_server_is_not_reached_without_its_certificate(server, certificate):
    result = run("models", "--url", server.address, "--timeout", "2")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    result = run("models", "--url", server.address, "--tls-certificate", certificate[0])
    assert result.exit_code == 1
    assert "belong together" in result.stderr


def test_a_token_does_not_travel_in_the_clear():
    result = run("models", "--url", "example.org:8001", SALF_TOKEN="secret")
    assert result.exit_code == 1
    assert "would travel in the clear" in result.stderr
    assert "secret" not in result.output


def test_several_addresses_share_the_work():
    with mock_server() as one, mock_server() as other:
        pictures = sorted(PICTURES.glob("*.jpg"))
        result = run("explain", *pictures, "--json", SALF_URL=f"{one.address} {other.address}")
        assert result.exit_code == 0, result.output
        assert one.calls["ModelInfer"]
        assert other.calls["ModelInfer"]
