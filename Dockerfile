# A container that trains, serves and predicts: docker build -t lasttoken . ; docker run --rm lasttoken --help
# CPU by default. For a GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t lasttoken:cuda .
# and docker run --gpus all. The build stage's compilers and caches stay out of the image.
FROM python:3.11-slim-bookworm AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,export
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/lasttoken \
    && /opt/lasttoken/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[$EXTRAS]"

FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="lasttoken" \
      org.opencontainers.image.description="Fine-tune causal language models to classify text, and serve them" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin lasttoken \
    && install --directory --owner=lasttoken --group=lasttoken /work /cache
COPY --from=build /opt/lasttoken /opt/lasttoken

# LASTTOKEN_CACHE is a folder, not a token
# hadolint ignore=DL3064
ENV PATH=/opt/lasttoken/bin:$PATH \
    LASTTOKEN_CACHE=/cache \
    HF_HOME=/cache/huggingface \
    PYTHONDONTWRITEBYTECODE=1

USER 10001
WORKDIR /work
VOLUME ["/work", "/cache"]
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["lasttoken"]
CMD ["--help"]
