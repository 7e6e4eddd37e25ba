# The gateway with the embedded back end: no torch, no compiler, no root. The model repository is mounted, not
# copied: one image serves any bundle, and who may write bundles is decided outside of it.

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY serving serving
# One command for both, so that pip finds the SDK that the gateway asks for.
RUN pip install ./clients/python .

FROM python:3.11-slim
COPY --from=build /opt/gateway /opt/gateway
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway
USER 10001:10001
WORKDIR /srv
# onnxruntime reads the first before it is imported; without it it uploads telemetry and writes to a home folder.
ENV PATH=/opt/gateway/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    INDOMAIN_HOST=0.0.0.0 \
    INDOMAIN_MODEL_REPOSITORY=/models
VOLUME /models
EXPOSE 8500 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "serving"]
