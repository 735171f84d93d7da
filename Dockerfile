# seqrl on the CPU, for a user without rights:
#   docker build -t seqrl .
#   docker run --rm -t -v "$PWD/outputs:/home/seqrl/outputs" seqrl make train
#   docker run --rm -t seqrl make test
# The folder for outputs must belong to user 1000.
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 seqrl
USER seqrl
WORKDIR /home/seqrl

# torch first, in the version that is pinned, from the index of builds for the CPU: the usual one takes several GB.
COPY --chown=seqrl Makefile constraints.txt ./
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)"
COPY --chown=seqrl . .
# An old stamp has make keep this environment, and install what is missing.
RUN touch -d 2000-01-01 .venv/.installed && PIP_NO_CACHE_DIR=1 make .venv/.installed

CMD ["make", "train"]
