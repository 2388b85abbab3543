"""A web service that returns an explanation beside each prediction.

Run: SALF_URL=localhost:8001 uvicorn --factory examples.explaining_service:create_app
Ask: curl -F picture=@demonstration/pictures/harbour.jpg http://127.0.0.1:8000/predictions
"""

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from salf_client import (
    AsyncClient,
    ClientError,
    DeadlineExceededError,
    Explanation,
    InvalidPictureError,
    MessageTooLargeError,
    ServerNotReadyError,
    ServerOverloadedError,
    ServerUnavailableError,
    TopOutOfRangeError,
    UnknownClassError,
)

_LOG = logging.getLogger("explaining_service")
LARGEST_UPLOAD_BYTES = 10 * 2**20
#: What callers are told of an error, by its kind; None tells its own message, which is about what they sent.
STATUSES: tuple[tuple[type[ClientError], int, str | None], ...] = (
    (InvalidPictureError, 422, None),
    (UnknownClassError, 422, None),
    (TopOutOfRangeError, 422, None),
    (MessageTooLargeError, 413, "the picture is too large"),
    (DeadlineExceededError, 504, "the explanation was not ready in time"),
    (ServerOverloadedError, 503, "too many requests at the moment"),
    (ServerNotReadyError, 503, "explanations are not available at the moment"),
    (ServerUnavailableError, 503, "explanations are not available at the moment"),
    (ClientError, 502, "the explanation failed"),
)
RETRY_AFTER_S = 2


class Reason(BaseModel):
    """One concept that spoke for or against the class."""

    concept: str = Field(description="in words: 'sailboat', or 'no sailboat' where it is absent")
    contribution: float = Field(description="to the class's logit")
    strongest_at: tuple[int, int] | None = Field(description="(x, y) in pixels of the picture; null if absent")


class Prediction(BaseModel):
    """What is on the picture, and why."""

    label: str
    probability: float = Field(ge=0, le=1)
    reasons: list[Reason]
    coverage: float = Field(description="share of all evidence that the reasons are, 0..1")
    model: str
    version: int


class Problem(BaseModel):
    """Why there is no prediction."""

    detail: str


def create_app(url: str | Sequence[str] | None = None, *, timeout_s: float = 5.0) -> FastAPI:
    """The service.

    Args:
        url: host:port of a salf server, or several that share the work; $SALF_URL by default, with spaces between.
        timeout_s: within which an explanation must be there, retries included.
    """
    addresses = url or os.environ.get("SALF_URL", "localhost:8001").split()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # One client for the process: it keeps its connection, and knows the model from the first call on.
        async with AsyncClient(addresses, timeout_s=timeout_s) as client:
            app.state.client = client
            yield

    app = FastAPI(title="Predictions with reasons", lifespan=lifespan)
    app.add_exception_handler(ClientError, _problem)
    problems = {status: {"model": Problem} for status in sorted({status for _, status, _ in STATUSES})}

    @app.post("/predictions", responses=problems)  # type: ignore[arg-type] # their keys may be words too
    async def predict(
        picture: UploadFile,
        client: Annotated[AsyncClient, Depends(_client)],
        top: Annotated[int, Query(ge=1, description="how many reasons")] = 5,
        target: Annotated[str | None, Query(description="explain this class instead: why not?")] = None,
    ) -> Prediction:
        """Predict a picture's class and say why. JPEG, PNG and WebP go on to the server as they are."""
        data = await picture.read(LARGEST_UPLOAD_BYTES + 1)
        if len(data) > LARGEST_UPLOAD_BYTES:
            raise HTTPException(413, "the picture is too large")
        return prediction(await client.explain(data, top=top, target=target))

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """This process answers."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def ready(client: Annotated[AsyncClient, Depends(_client)]) -> dict[str, str]:
        """Explanations can be had."""
        if not await client.is_ready(timeout_s=1.0):
            raise HTTPException(503, "the salf server is not ready")
        return {"status": "ready"}

    return app


def prediction(explanation: Explanation) -> Prediction:
    """The service's own words for an explanation."""
    reasons = []
    for concept in explanation.concepts:
        strongest = None
        if concept.present:
            heat = explanation.heatmap(concept)
            y, x = np.unravel_index(int(np.nanargmax(heat)), heat.shape)
            strongest = (int(x), int(y))
        reasons.append(
            Reason(concept=concept.wording, contribution=concept.contribution, strongest_at=strongest),
        )
    return Prediction(
        label=explanation.target,
        probability=explanation.probability,
        reasons=reasons,
        coverage=explanation.coverage,
        model=explanation.model,
        version=explanation.version,
    )


def _client(request: Request) -> AsyncClient:
    client: AsyncClient = request.app.state.client
    return client


async def _problem(request: Request, error: Exception) -> Response:
    status, told = next((status, told) for kind, status, told in STATUSES if isinstance(error, kind))
    if status >= 500:
        # Addresses and the server's words are for the log, not for callers.
        _LOG.warning("%s: %s: %s", request.url.path, type(error).__name__, error)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return JSONResponse({"detail": told or str(error)}, status, headers)
