# The load generator, Locust with the users of tests/load:
#     docker build -t heatlens-load -f docker/load.Dockerfile .

ARG BASE=python:3.11-slim-bookworm

FROM $BASE

LABEL org.opencontainers.image.title="heatlens-load" \
      org.opencontainers.image.description="Load on a heatlens server." \
      org.opencontainers.image.licenses="Apache-2.0"

ARG LOCUST_VERSION=2.47.0
COPY docker/constraints.txt /load/
RUN pip install --no-cache-dir -c /load/constraints.txt "locust==$LOCUST_VERSION" httpx numpy pillow

COPY tests/load /load/tests/load

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/load \
    HOME=/tmp
WORKDIR /load
USER 10001:10001
EXPOSE 8089
STOPSIGNAL SIGTERM

ENTRYPOINT ["locust", "--locustfile", "tests/load/locustfile.py"]
CMD ["--host", "http://127.0.0.1:8000"]
