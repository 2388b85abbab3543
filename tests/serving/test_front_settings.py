"""The front on paper: its settings file, tokens, and the text that nginx gets."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salf_serving import FrontError, FrontSettings, read_front_settings
from salf_serving.front import Front
from salf_serving.nginx_config import FrontFiles, nginx_config
from salf_serving.nginx_connections import find_stream_module
from salf_serving.tokens import read_tokens, token_map

GOLDEN = Path(__file__).parent / "golden"
FILES = FrontFiles(
    folder=Path("/run/salf"),
    ready=Path("/tmp/salf/ready"),
    access_log=Path("/log/front.log"),
    error_log=Path("/log/errors.log"),
)
TLS = {"certificate": Path("/tls/server.pem"), "certificate_key": Path("/tls/server.key")}
CASES = {
    "plain": FrontSettings(),
    "strict": FrontSettings(
        address="0.0.0.0",
        **TLS,
        client_ca=Path("/tls/ca.pem"),
        tokens=Path("/tls/tokens"),
        max_request_bytes=1_000_000,
        concurrent_requests=10,
        concurrent_requests_per_client=4,
        requests_per_second_per_client=50,
        connections_per_client=20,
        log_addresses=True,
    ),
}


def text_of(settings: FrontSettings, traced_share: float | None = None) -> str:
    return nginx_config(
        settings, FILES, port=8001, triton_port=9001, control_key="KEY", worker_user="nobody nogroup",
        traced_share=traced_share,
        stream_module=None if settings.connections_per_client is None else Path("/modules/ngx_stream_module.so"),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_configuration_is_the_one_on_file(name):
    """After a wanted change: write text_of(CASES[name]) into the file, and read the difference."""
    assert text_of(CASES[name]) == (GOLDEN / f"{name}.conf").read_text()


@pytest.mark.parametrize(
    ("address", "listed"),
    [("127.0.0.1", []), ("::1", []), ("::", []), ("10.0.0.5", ["10.0.0.5"]), ("2001:DB8::5", ["2001:db8::5"])],
)
def test_connections_of_the_supervisor_are_not_counted(address, listed):
    """It comes from the address that it asks."""
    tls = {} if address in ("127.0.0.1", "::1") else TLS
    text = text_of(FrontSettings(address=address, connections_per_client=2, **tls))
    entries = text.partition("map $remote_addr $salf_address {")[2].partition("}")[0].split(";")
    assert [entry.split()[0] for entry in entries if entry.endswith('""')] == ["127.0.0.1", "::1", *listed]


def test_the_control_key_stands_only_where_the_index_is_asked():
    text = text_of(FrontSettings())
    assert text.count("KEY") == 1
    assert "KEY" in text.partition("location = /inference.GRPCInferenceService/RepositoryIndex {")[2].partition("}")[0]


@pytest.mark.parametrize(("share", "drawn"), [(0, "* 0;"), (1, "* 1;"), (0.0125, "1.25% 1;"), (0.0001, "0.01% 1;")])
def test_traces_cost_the_configuration_nothing_until_they_are_wanted(share, drawn):
    plain, traced = text_of(FrontSettings()), text_of(FrontSettings(), share)
    assert "salf_drawn" not in plain
    assert "grpc_set_header traceparent $salf_trace;" in plain
    assert drawn in traced.partition("split_clients")[2].partition("}")[0]
    assert traced.count("grpc_set_header traceparent $salf_passed;") == 2
    assert set(plain.splitlines()) - set(traced.splitlines()) == {
        "        grpc_set_header traceparent $salf_trace;",
        "            grpc_set_header traceparent $salf_trace;",
        """        '"server_seconds":"$upstream_response_time"}';""",
    }


def test_no_call_passes_that_is_not_listed():
    passed = {
        block.partition(" {")[0]
        for block in text_of(FrontSettings()).split("location ")[1:]
        if "grpc_pass" in block.partition("}\n        location")[0]
    }
    service = "= /inference.GRPCInferenceService/"
    calls = ("ModelInfer", "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig",
             "RepositoryIndex")  # fmt: skip
    assert passed == {service + call for call in calls} | {"= /grpc.health.v1.Health/Check", "@while_out"}


def test_nginx_accepts_it_and_refuses_what_it_cannot_use(tmp_path, nginx):
    files = FrontFiles(
        folder=tmp_path, ready=tmp_path / "r", access_log=tmp_path / "a.log", error_log=tmp_path / "e.log"
    )
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text("app " + "a~b.c+d/e=f-g_h" * 3 + "\n")
    settings = FrontSettings(tokens=tokens, requests_per_second_per_client=5)
    front = Front(nginx=nginx, settings=settings, files=files, port=18001, triton_port=18002, control_key="KEY")
    front.write()
    assert {path.name: path.stat().st_mode & 0o777 for path in (files.config, files.token_map)} == {
        "nginx.conf": 0o600,
        "tokens.map": 0o600,
    }
    before = files.config.read_text()
    broken = settings.model_copy(
        update={"certificate": tmp_path / "none.pem", "certificate_key": tmp_path / "none.key"}
    )
    front = Front(nginx=nginx, settings=broken, files=files, port=18001, triton_port=18002, control_key="KEY")
    with pytest.raises(FrontError, match=r"the front needs .*none\.pem, which cannot be read: No such file"):
        front.write()
    assert files.config.read_text() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adress = '0.0.0.0'", "adress: Extra inputs are not permitted"),
        ("address = 'everywhere'", "'everywhere' is no IP address"),
        ("address = '0.0.0.0'", "is reached from elsewhere: give certificate"),
        ("certificate = 'a.pem'", "belong together"),
        ("client_ca = 'a.pem'", "client_ca needs certificate"),
        ("concurrent_requests = 0", "concurrent_requests: Input should be greater"),
        ("max_request_bytes = '8 MB'", "max_request_bytes: Input should be a valid integer"),
        ("= 3", "are no TOML"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(tmp_path, text, words):
    (tmp_path / "front.toml").write_text(text)
    with pytest.raises(FrontError, match=words) as caught:
        read_front_settings(tmp_path / "front.toml")
    assert "\n" not in str(caught.value)


def test_paths_are_relative_to_the_settings_file(tmp_path):
    (tmp_path / "front.toml").write_text("tokens = 'tokens'\nallow_plaintext = true\naddress = '::'\n")
    assert read_front_settings(tmp_path / "front.toml").tokens == tmp_path / "tokens"
    with pytest.raises(FrontError, match="cannot be read"):
        read_front_settings(tmp_path / "none.toml")


SECRET = "0123456789abcdef0123456789ABCDEF"


def token_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_tokens_are_read_with_their_names(tmp_path):
    path = token_file(tmp_path, f"# clients\nshop {SECRET}\n\nshop {SECRET}2\nlab {SECRET}3\n")
    assert read_tokens(path) == {SECRET: "shop", f"{SECRET}2": "shop", f"{SECRET}3": "lab"}


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (f"shop {SECRET}", 0o644, "closed to others: chmod 600"),
        ("shop short", 0o600, "line 1 .* must be NAME TOKEN"),
        (f"shop {SECRET} more", 0o600, "line 1 .* must be NAME TOKEN"),
        (f'shop {SECRET}"; default all', 0o600, "line 1"),
        (f"a;b {SECRET}", 0o600, "line 1"),
        (f"shop {SECRET}\nlab {SECRET}", 0o600, "line 2 .* repeats the token of shop; make another with"),
        ("# nobody\n", 0o600, "holds 0 tokens"),
    ],
)
def test_wrong_token_files_are_told_without_the_token(tmp_path, text, mode, words):
    with pytest.raises(FrontError, match=words) as caught:
        read_tokens(token_file(tmp_path, text, mode))
    assert SECRET not in str(caught.value)


@given(st.text("abcXYZ019_~+/=.-", min_size=32, max_size=64))
def test_a_tokens_pattern_matches_nothing_else(token):
    import re

    pattern = token_map({token: "shop"}).partition('"~')[2].partition('" shop;')[0]
    assert re.search(pattern, f"Bearer {token}")
    assert re.search(pattern, f"bearer {token}")
    for other in (token.swapcase() if token.swapcase() != token else token + "x", token[:-1], token.replace(".", "!")):
        if other != token:
            assert not re.search(pattern, f"Bearer {other}")


def test_a_missing_nginx_is_told_with_the_command(monkeypatch):
    from salf_serving.front import find_nginx

    monkeypatch.setenv("SALF_NGINX", "no-such-nginx")
    with pytest.raises(FrontError, match=r"no-such-nginx is missing; install it with `apt-get install .* nginx`"):
        find_nginx()


def test_a_missing_stream_module_is_told_with_the_command(nginx, tmp_path):
    with pytest.raises(
        FrontError, match=r"no .*ngx_stream_module.so; install it with `apt-get .* libnginx-mod-stream`"
    ):
        find_stream_module(nginx, str(tmp_path))
    (tmp_path / "nginx").write_text("#!/bin/sh\necho 'configure arguments: --with-stream --with-threads' >&2\n")
    (tmp_path / "nginx").chmod(0o755)
    assert find_stream_module(tmp_path / "nginx", None) is None, "it is built in"
    with pytest.raises(FrontError, match="does not say how it was built"):
        find_stream_module(tmp_path / "none", None)


def test_nginx_itself_is_real(nginx):
    assert b"nginx version" in subprocess.run([nginx, "-v"], capture_output=True, check=True).stderr


def test_the_envoy_example_passes_our_calls_and_asks_our_readiness():
    import yaml

    envoy = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "envoy.yaml").read_text())
    (cluster,) = envoy["static_resources"]["clusters"]
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/readyz"
    manager = envoy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert route["match"]["prefix"] == "/inference.GRPCInferenceService/"
    assert route["route"]["cluster"] == cluster["name"]
