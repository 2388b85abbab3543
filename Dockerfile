# syntax=docker/dockerfile:1.7
# Two images from one file:
#   docker build --target cpu -t salf:cpu .     Triton from its wheel, on Debian
#   docker build --target gpu -t salf:gpu .     NVIDIA's Triton with its native backends
# The base images are pinned in pyproject.toml, [tool.salf.images]; a test keeps these lines equal to it.
ARG DEBIAN_IMAGE=debian:12.15-slim
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:24.12-py3

# ---- every wheel that goes into an image, checked against committed hashes --------------------------------------------
FROM ${DEBIAN_IMAGE} AS wheels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY deploy/requirements-serve.txt deploy/requirements-runtime.txt deploy/requirements-build.txt ./deploy/
RUN python3 -m pip download --no-cache-dir --require-hashes --only-binary=:all: --dest /wheels/serve \
        --requirement deploy/requirements-serve.txt \
    && python3 -m pip download --no-cache-dir --require-hashes --only-binary=:all: --no-deps --dest /wheels/runtime \
        --requirement deploy/requirements-runtime.txt \
    && python3 -m venv /build \
    && /build/bin/pip install --no-cache-dir --require-hashes --requirement deploy/requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY clients ./clients
COPY training ./training
COPY export ./export
COPY serving ./serving
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels/serve .

# ---- CPU: Triton's own binary from its wheel ---------------------------------------------------------------------------
FROM ${DEBIAN_IMAGE} AS cpu-base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libpython3.11 nginx-light python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin salf

FROM cpu-base AS cpu-build
COPY --from=wheels /wheels /wheels
ENV PIP_NO_INDEX=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 SALF_RUNTIME=/opt/salf-runtime
RUN python3 -m venv /opt/salf \
    && /opt/salf/bin/pip install --find-links /wheels/serve 'salf[serve]' \
    && PIP_FIND_LINKS=/wheels/runtime /opt/salf/bin/salf serve --install \
    && chmod -R a+rX /opt/salf-runtime

FROM cpu-base AS cpu
COPY --from=cpu-build /opt/salf /opt/salf
COPY --from=cpu-build /opt/salf-runtime /opt/salf-runtime
COPY deploy/front.toml /etc/salf/front.toml
ENV PATH=/opt/salf/bin:$PATH SALF_RUNTIME=/opt/salf-runtime XDG_STATE_HOME=/tmp/state PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title="salf" \
      org.opencontainers.image.description="Vision models that say what they saw and where, on Triton (CPU)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/salf/salf"
USER 10001:10001
EXPOSE 8001 8003
VOLUME ["/models"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8003/readyz', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--", "salf", "serve", "/models"]
CMD ["--front-settings", "/etc/salf/front.toml", "--port", "8001", "--status-address", "0.0.0.0", "--status-port", "8003", "--metrics-port", "8002", \
     "--startup-timeout", "180"]

# ---- GPU: NVIDIA's image, its native ONNX Runtime and TensorRT backends ------------------------------------------------
FROM ${TRITON_IMAGE} AS gpu-base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx-light python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin salf

FROM gpu-base AS gpu-build
COPY --from=wheels /wheels/serve /wheels/serve
COPY deploy/requirements-serve.txt deploy/requirements-runtime.txt /tmp/
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 SALF_RUNTIME=/opt/salf-runtime SALF_TRITON=/opt/tritonserver
# This image's Python is newer than the one that downloaded the wheels: its own are fetched, against the same hashes. What
# Triton brings itself is fetched with them, and not installed.
RUN python3 -m venv /opt/salf \
    && /opt/salf/bin/pip install --require-hashes --only-binary=:all: --requirement /tmp/requirements-serve.txt \
    && /opt/salf/bin/pip install --no-index --no-deps /wheels/serve/salf-*.whl \
    && /opt/salf/bin/pip download --require-hashes --only-binary=:all: --no-deps --dest /wheels/runtime \
        --requirement /tmp/requirements-runtime.txt \
    && PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels/runtime /opt/salf/bin/salf serve --install \
    && chmod -R a+rX /opt/salf-runtime

FROM gpu-base AS gpu
COPY --from=gpu-build /opt/salf /opt/salf
COPY --from=gpu-build /opt/salf-runtime /opt/salf-runtime
COPY --from=gpu-build /opt/tritonserver/backends/salf_encoded /opt/tritonserver/backends/salf_encoded
COPY deploy/front.toml /etc/salf/front.toml
ENV PATH=/opt/salf/bin:$PATH SALF_RUNTIME=/opt/salf-runtime SALF_TRITON=/opt/tritonserver \
    XDG_STATE_HOME=/tmp/state PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title="salf" \
      org.opencontainers.image.description="Vision models that say what they saw and where, on Triton (GPU)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/salf/salf"
USER 10001:10001
EXPOSE 8001 8003
VOLUME ["/models"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8003/readyz', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--", "salf", "serve", "/models"]
CMD ["--front-settings", "/etc/salf/front.toml", "--port", "8001", "--status-address", "0.0.0.0", "--status-port", "8003", "--metrics-port", "8002", \
     "--startup-timeout", "600"]
