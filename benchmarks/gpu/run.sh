#!/usr/bin/env bash
# Installs the packed wheels beside the interpreter's own packages, then runs the driver; README.md says more.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=${FMCE_GPU_SITE:-${TMPDIR:-/tmp}/fmce-gpu-site}
packed=${FMCE_GPU_PACKED:-.gpu}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
if compgen -G "$packed/wheels*/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$site" "$packed"/wheels*/*.whl
fi
if [ -d "$site" ]; then
    PYTHONPATH="$PYTHONPATH:$site"
fi
exec "$python" -m benchmarks.gpu.run "$@"
