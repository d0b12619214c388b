#!/usr/bin/env bash
# Measure DualPath on a GPU within eight minutes. The package and its dependencies must be
# importable; all arguments go to bench.py:
#     PYTHONPATH=src bash benchmarks/gpu/run.sh --out gpu.json
set -euo pipefail
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "${PYTHON:-python3}" "$(dirname "$0")/bench.py" "$@"
