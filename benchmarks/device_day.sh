#!/usr/bin/env bash
# Measure this machine's accelerator within nine minutes, and write $OUT/device.json: does an experiment run, are scores
# those of the CPU, are orthogonal layers orthogonal, how fast are attacks, training steps and layers.
#
#     OUT=runs/device_day benchmarks/device_day.sh            # --minutes 5: less time; --tiny: does it run at all?
#     python benchmarks/device_tables.py runs/device_day/device.json     # afterwards, at home: into the tables
#
# Nothing is downloaded. Needed are jax, flax, optax, orbax-checkpoint, chex, scipy, pillow, jaxtyping, rich, filelock,
# safetensors, jinja2, matplotlib and scikit-learn. Two variables help: PYTHON is the interpreter (python3 by default),
# WHEELS a folder of wheels for packages which that interpreter lacks, such as grain.
set -u
python=${PYTHON:-python3}
out=${OUT:-runs/device_day}
if [ -n "${WHEELS:-}" ]; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$python" "$(dirname "$0")/device_day.py" --out "$out" "$@"
