# The base is an argument so that the image can be built where no public registry is reachable. Any Debian-like base with
# Python 3.11 or newer as `python3` (with venv) will do; both stages must use the same one.
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
# pip lives in an environment of its own; the one that is shipped has neither pip nor setuptools.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/keeper
COPY requirements.lock requirements-dev.lock ./
# Only wheels: nothing is compiled here, so no compiler is needed here either. The build backend is locked, too.
RUN awk '/^[a-z0-9]/ { wanted = /^setuptools==/ } wanted' requirements-dev.lock > build.lock \
 && /opt/build/bin/pip install --only-binary :all: --require-hashes -r build.lock \
 && /opt/build/bin/pip --python /opt/keeper/bin/python3 install --only-binary :all: --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY contracts_abi contracts_abi
COPY keeper keeper
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/keeper/bin/python3 install --no-deps --no-index /wheels/*.whl

FROM ${BASE}
RUN groupadd --gid 10001 keeper \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin keeper \
 && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /opt/keeper /opt/keeper
COPY config /config
# Inside a container only a published port is reachable from outside, so the server may listen on every address.
ENV PATH=/opt/keeper/bin:$PATH \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KEEPER_CONFIG=/config/ethereum.toml \
    KEEPER__DATA__DIR=/data \
    KEEPER__OPS__HTTP_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["keeper", "health"]
# Exec form: the keeper is process 1, gets SIGTERM itself, and starts no children that would have to be reaped.
ENTRYPOINT ["keeper"]
CMD ["run"]
