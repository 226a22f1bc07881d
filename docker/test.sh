#!/usr/bin/env bash
# Builds the image with a real engine and tries it beside a PostgreSQL: what `make docker-test` runs. `make test`
# runs the same tests among all others. Arguments go to pytest; docs/docker.md tells what the tests look for.
set -euo pipefail
cd "$(dirname "$0")/.."
exec env -u PYTHONPATH -u PYTHONHOME .venv/bin/python -m pytest tests/docker "$@"
