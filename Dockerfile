# batchrunner as an image: docker build -t batchrunner .
# How to use it: docs/deployment.md
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY batchrunner batchrunner
RUN python -m venv /opt/batchrunner \
    && /opt/batchrunner/bin/pip install --no-cache-dir '.[metrics,parquet,xlsx,remote]' \
    && /opt/batchrunner/bin/python -m compileall -q /opt/batchrunner/lib

FROM python:3.12-slim
# tini passes signals on and collects processes that a check or notify command left behind
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home batchrunner \
    && install -d -o batchrunner -g batchrunner /work
COPY --from=build /opt/batchrunner /opt/batchrunner
ENV PATH=/opt/batchrunner/bin:$PATH
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["tini", "--", "batchrunner"]
CMD ["--help"]
