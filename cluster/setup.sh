#!/usr/bin/env bash
# Sets up this machine for `make train`, or with `tests` for `make test`: system packages, and .venv with the
# versions of requirements-cpu.txt, or of requirements-gpu.txt where there is a GPU (unless DEVICE=cpu). Does nothing
# when nothing has changed; names the command where it may not install.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '• %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null; }

# The interpreter: PYTHON, or the first of these that is of a version we support.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

HAS_VENV_AND_HEADERS='
import ensurepip, pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'

# Names of the Debian packages of a supported Python.
python_packages() {
    case "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" in
        bookworm | noble) echo python3 python3-venv python3-dev ;;
        jammy) echo python3.11 python3.11-venv python3.11-dev ;;
        *) fail "Python 3.11 or 3.12 is needed, and this system's packages have neither: make PYTHON=/path/to/python3.11" ;;
    esac
}

# Prints the Debian packages that are missing.
missing_packages() {
    local python
    python=$(find_python)
    if [ -z "$python" ] || ! "$python" -c "$HAS_VENV_AND_HEADERS" 2>/dev/null; then
        python_packages
    fi
    has bwrap || echo bubblewrap # the process sandbox
    has g++ || echo g++          # PyTorch and DeepSpeed compile CPU kernels, with Python's headers
    /sbin/ldconfig -p | grep -q 'libnuma\.so\.1' || echo libnuma1 # vLLM
}

# Prints those that only tests need: of the stronger sandboxes, of the dashboards, and of the report.
missing_test_packages() {
    if ! docker info >/dev/null 2>&1; then
        has dockerd || echo docker.io # a docker client alone is not enough
        has iptables || echo iptables
    fi
    has debootstrap || echo debootstrap # the sandbox image where no registry is reachable
    has runsc || echo runsc             # gVisor
    has prometheus || echo prometheus   # and its promtool
    # The report is opened in it; Ubuntu has it only as a snap.
    has chromium || has google-chrome || [ "$(. /etc/os-release && echo "$ID")" != debian ] || echo chromium
}

install_packages() {
    local log
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    say "installing $*"
    if ! apt-get install -qq -y --no-install-recommends "$@" >"$log" 2>&1; then
        apt-get update -qq >>"$log" 2>&1 || true
        if ! apt-get install -qq -y --no-install-recommends "$@" >>"$log" 2>&1; then
            cat "$log" >&2
            return 1
        fi
    fi
    rm "$log"
}

system_packages() {
    local missing may_install=
    if [ "$(id -u)" = 0 ] && has apt-get; then may_install=yes; fi
    missing=$(missing_packages | xargs)
    if [ -n "$missing" ]; then
        [ "$may_install" ] || fail "these packages are missing; run  sudo apt-get install -y $missing  and then make again"
        # shellcheck disable=SC2086
        install_packages $missing || fail "apt-get could not install $missing (see above)"
    fi
    [ "${1:-}" = tests ] || return 0
    missing=$(missing_test_packages | xargs)
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086
    if [ -z "$may_install" ] || ! install_packages $missing; then
        say "tests of the Docker and gVisor sandboxes, the dashboards and the report in a browser will be skipped: they need  sudo apt-get install -y $missing"
    fi
}

# cpu or gpu: what DEVICE says, or by default what this machine has.
device() {
    case "${DEVICE:-auto}" in
        cpu | gpu) echo "$DEVICE" ;;
        auto) if nvidia-smi -L >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
        *) fail "DEVICE=$DEVICE: choose auto, cpu or gpu" ;;
    esac
}

virtual_environment() {
    local stamp python device lock
    device=$(device)
    lock=requirements-$device.txt
    stamp=.venv/.ready-$( (pwd && cat "$lock" pyproject.toml cluster/setup.sh) | sha256sum | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    python=$(find_python)
    # vLLM's builds for CPUs and for GPUs are two packages with the same files.
    [ "$(cat .venv/.device 2>/dev/null || echo "$device")" = "$device" ] || rm -rf .venv
    rm -f .venv/.ready-*
    .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
    local install=(.venv/bin/python -m pip --disable-pip-version-check -qq install --no-compile)
    say "installing the Python packages of $lock into .venv (4 GB, 12 GB for a GPU; a few minutes, once)"
    if [ "$device" = cpu ] && ! "${install[@]}" --no-deps 'torch==2.13.0+cpu' 2>/dev/null; then
        say "no pip index has torch's CPU build, so the larger CUDA build comes (PIP_EXTRA_INDEX_URL may name one)"
        "${install[@]}" 'torch==2.13.0'
    fi
    "${install[@]}" --no-deps -r "$lock"
    "${install[@]}" --no-deps --no-build-isolation --editable .
    # pip would compile with one core; some packages carry templates that are no Python, which is no failure.
    .venv/bin/python -m compileall -qq -j 0 .venv/lib || true
    echo "$device" >.venv/.device
    touch "$stamp"
    say "set up in $SECONDS s"
}

system_packages "$@"
virtual_environment
