# Two stages from one base: the first has pip and the index's downloads, the second only what runs.
FROM python:3.13.16-slim-trixie AS build

WORKDIR /app
COPY requirements/base.txt requirements/
# pip does its work and goes: whoever breaks in finds no installer.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
        --require-hashes -r requirements/base.txt \
    && /opt/venv/bin/pip uninstall --yes pip

COPY manage.py ./
COPY voiceassist voiceassist
COPY core core
COPY health health

# Production's settings decide how static files are named, so they are read here; what they require
# is made up for this one command, stays in this stage, and no server is asked.
RUN VOICEASSIST_ENV=production SECRET_KEY=only-for-collectstatic ALLOWED_HOSTS=localhost \
    DATABASE_URL=postgres://nobody@localhost/none REDIS_URL=redis://localhost QDRANT_URL=http://localhost:6333 \
    PYTHONDONTWRITEBYTECODE=1 /opt/venv/bin/python manage.py collectstatic --noinput
# Bytecode that is never compared with its source: file times change on the way into a layer, and a
# read-only root would then compile everything again at every start. Readable for every user,
# whatever umask the checkout was made with.
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/venv /app \
    && chmod -R a+rX /app


FROM python:3.13.16-slim-trixie

LABEL org.opencontainers.image.title="voiceassist-server" \
      org.opencontainers.image.description="VoiceAssist backend: API, readiness and admin"

# Code and packages belong to root: the process can read them and change nothing.
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VOICEASSIST_ENV=production
WORKDIR /app
# A number, so that Kubernetes' runAsNonRoot can check it. Any other works too: the only writable
# place that the server needs is /tmp.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# A bare socket, isolated and without site-packages: some 20 ms instead of a second of Django. It follows BIND.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "health/container_probe.py", "/health", "2"]

# Exec form: gunicorn is process 1 and gets the SIGTERM that it drains on.
CMD ["gunicorn", "-c", "voiceassist/gunicorn.py", "voiceassist.wsgi:application"]
