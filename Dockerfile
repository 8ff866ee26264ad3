# The service with its embedded models, on a CPU:
#     docker build -t heatlens .
#     docker run --rm -p 8000:8000 --read-only --cap-drop ALL --security-opt no-new-privileges heatlens
#
# For NVIDIA GPUs, with the CUDA build of PyTorch that the default package index carries (the host needs a driver and
# the NVIDIA container toolkit):
#     docker build -t heatlens:cuda --build-arg TORCH_INDEX_URL= .
#     docker run --rm -p 8000:8000 --gpus all --read-only --cap-drop ALL --security-opt no-new-privileges heatlens:cuda
#
# For a build that can be repeated, a base that cannot change:
#     docker build -t heatlens --build-arg BASE=python:3.11-slim-bookworm@sha256:... .

ARG BASE=python:3.11-slim-bookworm

FROM $BASE AS dependencies

ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# Extras of pyproject.toml, separated by commas.
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /build
RUN python -m venv --without-pip /opt/heatlens

# Nothing of the service but its version, so that a change of its code leaves this layer, the large one, as it is.
COPY pyproject.toml docker/constraints.txt ./
COPY service/__init__.py service/
# Versions without hashes, as an index of PyTorch has files of its own. They only constrain: the CUDA packages among them
# come with a CUDA build of PyTorch, and with no other.
# --no-deps: an index of PyTorch carries torch and torchvision as wanted, and all else in whatever versions it has.
# What builds extensions against PyTorch, and its own tests, serve nobody here, nor does triton (700 MB with a CUDA build),
# which needs a C compiler at run time. torch_shm_manager is looked for on import.
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
        pip --python /opt/heatlens install --no-deps --index-url "$TORCH_INDEX_URL" -c constraints.txt torch torchvision; \
    fi \
    && touch README.md LICENSE \
    && pip --python /opt/heatlens install -c constraints.txt ".${EXTRAS:+[$EXTRAS]}" \
    && pip --python /opt/heatlens uninstall --yes heatlens triton \
    && rm -rf /opt/heatlens/lib/python3.11/site-packages/torch/include \
        /opt/heatlens/lib/python3.11/site-packages/torch/test \
    && find /opt/heatlens -path '*/torch/bin/*' -type f ! -name torch_shm_manager -delete \
    && find /opt/heatlens -path '*/nvidia/*/include' -prune -exec rm -rf {} + \
    && find /opt/heatlens -name '*.a' -delete


FROM dependencies AS application

COPY . .
# What is in the image, and under which licences: a CycloneDX bill of materials, and a text with all licences.
RUN pip --python /opt/heatlens install --no-deps --prefix /application . \
    && /opt/heatlens/bin/python -I docker/sbom.py /application/share/heatlens /application/lib/python3.11/site-packages


FROM $BASE

ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="heatlens" \
      org.opencontainers.image.description="Explanations of vision networks over HTTP: what a network sees, and why." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="$BASE"

# The one place written to: measurements of the models, temporary files (PyTorch wants a directory for them on import) and,
# where a model is asked for that downloads them, its weights.
RUN install -d -o 10001 -g 10001 -m 0750 /var/cache/heatlens

COPY --from=dependencies /opt/heatlens /opt/heatlens
COPY --from=application /application /opt/heatlens

ENV PATH=/opt/heatlens/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/cache/heatlens \
    TMPDIR=/var/cache/heatlens \
    TORCH_HOME=/var/cache/heatlens/torch \
    HEATLENS_CACHE_DIR=/var/cache/heatlens \
    HEATLENS_HOST=0.0.0.0 \
    HEATLENS_PORT=8000

VOLUME /var/cache/heatlens
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# http.client and not urllib: a proxy in the environment is not for this. Longer than /health/ready's own patience of 5 s.
HEALTHCHECK --interval=15s --timeout=7s --start-period=90s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['HEATLENS_PORT']), timeout=6); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["heatlens"]
CMD ["serve"]
