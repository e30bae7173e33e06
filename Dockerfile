# The build stage has pip and the downloads; the final stage has only what the server needs at runtime.
FROM python:3.13.16-slim-trixie AS build

WORKDIR /app
COPY requirements/base.txt requirements/
# pip is removed after use, so that an intruder finds no installer.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
        --require-hashes -r requirements/base.txt \
    && /opt/venv/bin/pip uninstall --yes pip

COPY manage.py ./
COPY voiceassist voiceassist
COPY core core
COPY health health
COPY docs docs

# collectstatic needs the production settings, which name static files by their hash. The required variables get dummy
# values for this command only; it connects to no server.
RUN VOICEASSIST_ENV=production ALLOWED_HOSTS=localhost \
    SECRET_KEY=only-for-collectstatic-which-signs-nothing-and-connects-to-no-server \
    DATABASE_URL=postgres://localhost/none REDIS_URL=redis://localhost QDRANT_URL=http://localhost:6333 \
    PYTHONDONTWRITEBYTECODE=1 /opt/venv/bin/python manage.py collectstatic --noinput
# Bytecode that Python never compares with its source. Otherwise it would recompile everything at every start, because
# copying into a layer changes modification times, and a read-only root filesystem can't store the result. Any user can
# read the files, regardless of the checkout's umask.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/venv /app
# Read by voiceassist/build.py. Last, because every commit changes it.
ARG COMMIT=unknown
ARG BUILT_AT=unknown
RUN printf '%s\n%s\n' "$COMMIT" "$BUILT_AT" >voiceassist/build-identity \
    && chmod -R a+rX /app


FROM python:3.13.16-slim-trixie

ARG COMMIT=unknown
ARG BUILT_AT=unknown
LABEL org.opencontainers.image.title="voiceassist-server" \
      org.opencontainers.image.description="VoiceAssist backend: API, readiness and admin" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$COMMIT" \
      org.opencontainers.image.created="$BUILT_AT"

# Owned by root, so that the server's user can't change code or packages.
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VOICEASSIST_ENV=production
WORKDIR /app
# A numeric user, because Kubernetes' runAsNonRoot can't check names. Any other user works too, since only /dev/shm and
# /tmp need to be writable.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# -I -S skips site-packages, so the check takes about 20 ms instead of the second that importing Django takes. It uses
# the address in BIND.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "health/container_probe.py", "/health", "2"]

# Exec form, so that gunicorn is process 1 and receives SIGTERM, which starts the drain.
CMD ["gunicorn", "-c", "voiceassist/gunicorn.py", "voiceassist.wsgi:application"]
