"""One question to a language model behind an OpenAI-compatible endpoint.

Spoken is the plain chat-completions request, which hosted services and local servers (vLLM, llama.cpp, Ollama) share.
urllib3 sends it: the base install has it already, through tritonclient, and its retries know Retry-After and back off.
The `openai` client would bring a dozen packages for one POST; httpx has no retries of status codes.
"""

import ipaddress
import json
import os
from dataclasses import dataclass, field
from typing import Any

import urllib3

from salf_training.errors import EndpointError, SettingsError

#: Busy or broken for the moment; anything else will not get better by asking again.
_PASSING_STATUSES = (408, 409, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class ChatEndpoint:
    """Where to ask, and whom.

    Attributes:
        url: base URL with its version, such as "https://api.openai.com/v1" or "http://127.0.0.1:8000/v1".
        model: name of the model there.
        key: sent as a bearer token; None for servers without one.
        timeout_s: of silence, while connecting or waiting for the answer, per attempt.
        retries: further attempts after a time-out, a lost connection or a passing status.
        backoff_s: wait before the second retry, doubled with each further one; a Retry-After of the server counts more.
        temperature: of sampling.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0
    retries: int = 4
    backoff_s: float = 1.0
    temperature: float = 0.7

    def __post_init__(self) -> None:
        parsed = urllib3.util.parse_url(self.url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise SettingsError(f"the endpoint {self.url!r} is no URL; expected e.g. https://api.openai.com/v1")
        if self.key and parsed.scheme == "http" and not _is_loopback(parsed.host):
            raise SettingsError(f"the endpoint {self.url} would get the key unencrypted; use https, or no key")


def key_from_environment(variable: str) -> str:
    """The key in an environment variable.

    Raises:
        SettingsError: the variable is not set.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise SettingsError(
            f"the environment variable {variable} is not set; put the endpoint's key into it, "
            "or say that the endpoint needs none"
        )
    return key


def open_pool(endpoint: ChatEndpoint, *, connections: int) -> urllib3.PoolManager:
    """Connections to the endpoint, shared by threads, that ask again by themselves."""
    retries = urllib3.Retry(
        total=endpoint.retries,
        status_forcelist=_PASSING_STATUSES,
        allowed_methods={"POST"},
        backoff_factor=endpoint.backoff_s,
        redirect=0,  # a redirect would carry the key elsewhere
        raise_on_status=False,
        raise_on_redirect=False,
    )
    timeout = urllib3.Timeout(total=endpoint.timeout_s)
    return urllib3.PoolManager(maxsize=connections, retries=retries, timeout=timeout)


def ask(endpoint: ChatEndpoint, question: str, pool: urllib3.PoolManager) -> str:
    """Ask one question.

    Returns:
        The answer's text; empty if the body is not what the endpoint should send (such answers differ from try to try).

    Raises:
        EndpointError: nobody answers, or the endpoint refuses the key, the model or the request.
    """
    headers = {"Content-Type": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    body = {
        "model": endpoint.model,
        "temperature": endpoint.temperature,
        "messages": [{"role": "user", "content": question}],
    }
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    try:
        response = pool.request("POST", url, body=json.dumps(body), headers=headers)
    except urllib3.exceptions.HTTPError as error:
        raise EndpointError(
            f"{url} does not answer ({endpoint.timeout_s:g} s, {endpoint.retries} retries): {error}"
        ) from error
    if response.status != 200:
        said = " ".join(response.data.decode("utf-8", errors="replace").split())[:300]
        raise EndpointError(f"{url} answers {response.status} for the model {endpoint.model!r}: {said}")
    return _text_of(response.data)


def _text_of(body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
        text = answer["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return text if isinstance(text, str) else ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
