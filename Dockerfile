# One image for every role: `docker run mq9 server`, `mq9 meta`, `mq9 broker`. The role's settings are environment
# variables (docs/settings.md, docs/meta.md); a secret may also be a file, named by the variable with _FILE behind it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/mq9
WORKDIR /src
# What mq9 needs comes in a layer of its own, which a change of mq9 does not touch.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && /opt/mq9/bin/pip install --only-binary :all: --no-binary pysyncobj -r requirements.txt
COPY README.md LICENSE ./
COPY mq9 mq9
COPY broker_node broker_node
COPY meta_service meta_service
RUN /opt/mq9/bin/pip install --no-deps . \
    && /opt/mq9/bin/pip uninstall --yes pip

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="mq9" \
      org.opencontainers.image.description="A durable mailbox broker and registry for AI agents, spoken to with any NATS client." \
      org.opencontainers.image.licenses="Apache-2.0"
# The directories belong to the user in the image, so that named volumes laid over them do too.
RUN groupadd --system --gid 10001 mq9 \
    && useradd --system --uid 10001 --gid mq9 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mq9 \
    && install --directory --owner mq9 --group mq9 --mode 0750 /var/lib/mq9 /run/mq9
COPY --from=build /opt/mq9 /opt/mq9
COPY deploy/docker/entrypoint /usr/local/bin/mq9-entrypoint
COPY deploy/docker/healthcheck.py /usr/local/bin/mq9-healthcheck
# A container's own localhost is reached by nobody: which addresses are served is decided by the ports it publishes.
ENV PATH=/opt/mq9/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MQ9_HOST=0.0.0.0 \
    MQ9_MONITOR_HOST=0.0.0.0 \
    MQ9_DATA_DIR=/var/lib/mq9/broker \
    MQ9_META_DATA_DIR=/var/lib/mq9/meta \
    MQ9_META_MONITOR_HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/mq9
VOLUME /var/lib/mq9
# Broker: 4222 clients, 8222 monitoring, 9324 other brokers. Meta node: 9323 brokers, 9423 other meta nodes, 8322 monitoring.
EXPOSE 4222 8222 9324 9323 9423 8322
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 CMD ["mq9-healthcheck"]
ENTRYPOINT ["mq9-entrypoint"]
CMD ["server"]
