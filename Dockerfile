# The gateway: no torch, no compiler, no pip, no root. The model repository is mounted, not copied: one image serves any
# bundle, and who may write bundles is decided outside of it.

# `make images` appends the digest.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Every package comes as a wheel whose hash is in a lock file (`make lock`); nothing is built but our own two wheels.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/gateway \
    && pip --python /opt/gateway/bin/python install --require-hashes --only-binary :all: -r requirements.lock \
    && pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY clients/web clients/web
COPY serving serving
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels ./clients/python . \
    && pip --python /opt/gateway/bin/python install --no-index --no-deps /wheels/*.whl \
    && pip --python /opt/gateway/bin/python check \
    && find /opt/gateway -depth -type d \( -name __pycache__ -o -name tests \) -exec rm -rf {} +
# OpenVINO reads ONNX here and runs it on the processor: without what is for other formats and devices it takes 102 MB in
# place of 178, and without its telemetry it tells nobody. The last line sees that the rest works.
RUN cd /opt/gateway/lib/python3*/site-packages/openvino \
    && rm -rf ../openvino_telemetry* cmake include libs/cache.json libs/libopenvino_intel_[gn]pu_* \
       libs/libopenvino_gguf_* libs/libopenvino_jax_* libs/libopenvino_paddle_* libs/libopenvino_pytorch_* \
       libs/libopenvino_tensorflow_* \
    && /opt/gateway/bin/python -c 'import openvino; assert "CPU" in openvino.Core().available_devices'

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/gateway /opt/gateway
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway \
    && install -d -o 10001 -g 10001 /var/cache/indomain
USER 10001:10001
WORKDIR /srv
# onnxruntime reads the first before it is imported; without it it uploads telemetry and writes to a home folder.
# Listening on all addresses takes keys, client certificates, or INDOMAIN_INSECURE: the gateway refuses to start
# otherwise. Port 8081 has probes and metrics only; publish it to nobody.
ENV PATH=/opt/gateway/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    INDOMAIN_HOST=0.0.0.0 \
    INDOMAIN_OPERATIONS_PORT=8081 \
    INDOMAIN_LOG_FORMAT=json \
    INDOMAIN_ENGINE_CACHE=/var/cache/indomain/engines.json \
    INDOMAIN_MODEL_REPOSITORY=/models
VOLUME /models
EXPOSE 8500 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "serving"]
