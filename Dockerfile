# One image for every part of packshot: scheduler, worker, emulator and the commands.
#
# The base is pinned by its full version; pin its digest as well with
#   docker build --build-arg PYTHON=python:3.13.14-slim-bookworm@sha256:...
# Everything else that goes in is pinned by constraints.txt.

ARG PYTHON=python:3.13.14-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY models models
COPY worker worker
COPY scheduler scheduler
COPY emulator emulator
RUN pip install hatchling==1.27.0 && pip wheel --no-build-isolation --no-deps --wheel-dir /wheel .
RUN python -m venv /opt/packshot && /opt/packshot/bin/pip install --constraint constraints.txt /wheel/*.whl

FROM ${PYTHON}
RUN groupadd --system --gid 10001 packshot \
    && useradd --system --uid 10001 --gid packshot --home-dir /nonexistent --shell /usr/sbin/nologin packshot \
    && install --directory --owner packshot --group packshot /state /catalog
COPY --from=build /opt/packshot /opt/packshot
ENV PATH=/opt/packshot/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER packshot
WORKDIR /catalog
ENTRYPOINT ["packshot"]
CMD ["--help"]
# What a running service is asked is in docker-compose.yml, for each service its own; here, whether packshot starts.
HEALTHCHECK --interval=60s --timeout=20s --start-period=20s --retries=3 CMD ["packshot", "--version"]
