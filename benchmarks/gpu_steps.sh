#!/usr/bin/env bash
# What a GPU can show, in steps of at most nine minutes each; every step writes one JSON.
#
#   benchmarks/gpu_steps.sh prepare            # where there is a network: wheels and the commit into .carry/
#   benchmarks/gpu_steps.sh 2                  # on the GPU machine, bare but for torch: gpu_results/step2.json
#   benchmarks/gpu_steps.sh 2 --small          # the same on a CPU at toy size, to see that it runs
#   python benchmarks/report.py gpu_results/*.json --into docs/performance.md
#
# 1 versions, kernels and products; 2 the network; 3 the VAE; 4 end to end with video files; 5 late chunks; 6 a training
# step. Short of time: 1 to 3 first. OUT names another folder. Rows are written as they are found: a step that is cut
# keeps those it has. What is missing on the machine (diffusers, av, jsonargparse, torchdata) comes from .carry/wheels.
set -euo pipefail
cd "$(dirname "$0")/.."
MINUTES=9
WHEELS=(diffusers==0.42.1 av==18.1.0 jsonargparse==4.53.0 typeshed-client==2.11.0 docstring-parser==0.18.0 torchdata==0.11.0)
PYTHON=${PYTHON:-python3}

prepare() {
    mkdir -p .carry
    local platforms=() tag
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${tag}_x86_64")
    done
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
        --python-version "${CARRY_PYTHON:-3.12}" "${platforms[@]}" -d .carry/wheels "${WHEELS[@]}"
    printf '%s%s\n' "$(git rev-parse HEAD)" "$(git diff --quiet HEAD || echo ' and changes')" > .carry/commit
    du -sh .carry
}

if [[ ${1:-} == prepare ]]; then
    prepare
    exit
fi
if [[ ! ${1:-} =~ ^[1-6]$ ]]; then
    echo "give a step from 1 to 6, or prepare; got '${1:-}'" >&2
    exit 2
fi
if compgen -G ".carry/wheels/*.whl" > /dev/null; then
    site=${TMPDIR:-/tmp}/carried-site
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .carry/wheels/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec timeout --kill-after=10 "$((MINUTES * 60))" "$PYTHON" benchmarks/gpu_steps.py "$@" --out "${OUT:-gpu_results}" --seconds "$((MINUTES * 60 - 20))"
