# docker build -t faultline .
# docker run --read-only --tmpfs /tmp --shm-size 256m -v faultline:/data -e FAULTLINE_HOSTS=localhost -p 127.0.0.1:8050:8050 faultline
# The one-time link stands in the output (docker logs). Another one: docker exec CONTAINER python -m dashboard --new-link
# FAULTLINE_HOSTS names what browsers call it; without it the server does not start. Behind https add FAULTLINE_HTTPS=1.
FROM python:3.11-slim

# The lock file's packages by their hashes. For others (for example wheels of torch without CUDA) say where they come from, and
# --build-arg REQUIREMENTS=requirements.txt, which takes any version that will do.
ARG REQUIREMENTS=requirements.lock
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

WORKDIR /app
COPY requirements.txt requirements.lock ./
RUN pip install --no-cache-dir -r "$REQUIREMENTS"

COPY engine engine
COPY dashboard dashboard
COPY assets assets
COPY docs/claims.md docs/claims.md
RUN python -m compileall -q engine dashboard \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin faultline \
    && install --directory --owner faultline --mode 0700 /data

USER faultline
VOLUME /data
ENV FAULTLINE_STORE=/data/store FAULTLINE_HOST=0.0.0.0 FAULTLINE_PORT=8050 \
    HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8050
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"FAULTLINE_PORT\"]}/health', timeout=4)"]
CMD ["sh", "-c", "exec gunicorn -b \"$FAULTLINE_HOST:$FAULTLINE_PORT\" -k gthread -w 2 --threads 8 --timeout 60 --worker-tmp-dir /dev/shm dashboard.wsgi:server"]
