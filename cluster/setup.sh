#!/usr/bin/env bash
# Sets up this machine: system packages, and .venv with the versions of requirements-cpu.txt, or of requirements-gpu.txt
# where there is a GPU (unless DEVICE=cpu). `tests` adds what `make test` needs; `train` says what is to come.
# Does nothing when nothing has changed. Invariants: a machine that is not supported is told so before anything is
# downloaded; what may not be installed here is named in one command; pip's own settings (index, proxy, mirror) hold.
set -euo pipefail
shopt -s inherit_errexit 2>/dev/null || true # what fails in $(…) ends this too
cd "$(dirname "$0")/.."

TORCH=2.13.0
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu} # the ordinary index has the CUDA build alone

say() { printf '• %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null; }
of_system() { (. /etc/os-release 2>/dev/null && echo "${!1:-}") || true; }

# Refuses what has no wheels of vLLM and PyTorch, before anything is downloaded.
supported_machine() {
    local system machine libc
    system=$(uname -s) machine=$(uname -m)
    [ "$system" = Linux ] || fail "mlagent runs on Linux, and this is $system: use a Linux machine, WSL 2 or a virtual machine (on a Mac: limactl start), or a cluster by RAY_ADDRESS"
    case "$machine" in
        x86_64) ;;
        aarch64) [ "$(device)" = cpu ] || fail "requirements-gpu.txt is for x86-64, and this machine is $machine: make DEVICE=cpu trains on its cores" ;;
        *) fail "PyTorch and vLLM have no packages for $machine: use an x86-64 or aarch64 machine" ;;
    esac
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || echo "another C library")
    [ "$(printf '%s\n' "glibc 2.31" "$libc" | sort -V | head -n 1)" = "glibc 2.31" ] && [[ "$libc" == glibc* ]] ||
        fail "PyTorch and vLLM need glibc 2.31 or later, and this system has $libc: use Debian 12, Ubuntu 22.04 or later, or the images of \`make images\`"
}

# cpu or gpu: what DEVICE says, or by default what this machine has.
device() {
    case "${DEVICE:-auto}" in
        cpu | gpu) echo "$DEVICE" ;;
        auto) if nvidia-smi -L >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
        *) fail "DEVICE=$DEVICE: choose auto, cpu or gpu" ;;
    esac
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
is_supported() { case "$(version_of "$1")" in 3.11 | 3.12 | 3.13) true ;; *) false ;; esac }

# The interpreter: PYTHON, which must do, or the first of these that does; nothing where none does.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        version_of "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON does not run: give the path of a Python 3.11, 3.12 or 3.13"
        is_supported "$PYTHON" || fail "PYTHON=$PYTHON is Python $(version_of "$PYTHON"), and 3.11, 3.12 and 3.13 are supported: make PYTHON=/path/to/python3.12, or leave it out"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

HAS_VENV_AND_HEADERS='
import ensurepip, pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'

# Debian packages that a Python needs: those of the interpreter that there is, or of the system's where it does.
python_packages() {
    local python=$1
    if [ -n "$python" ]; then
        "$python" -c "$HAS_VENV_AND_HEADERS" 2>/dev/null && return
        [ "$("$python" -c 'import sys; print(sys.base_prefix)')" = /usr ] ||
            fail "$python lacks the module ensurepip or its headers (Python.h): install them from where it is from, or make PYTHON=/path/to/another"
        echo "python$(version_of "$python")-venv python$(version_of "$python")-dev"
        return
    fi
    case "$(of_system VERSION_CODENAME)" in
        bookworm | trixie | noble | plucky | questing) echo python3 python3-venv python3-dev ;;
        jammy) echo python3.11 python3.11-venv python3.11-dev ;;
        *) fail "Python 3.11, 3.12 or 3.13 is needed, and there is none: have one installed (pyenv, conda and uv need no root), then make PYTHON=/path/to/python3.12" ;;
    esac
}

# Prints the Debian packages that are missing.
missing_packages() {
    local python
    python=$(find_python)
    python_packages "$python"
    has bwrap || docker info >/dev/null 2>&1 || echo bubblewrap # the process sandbox, where no stronger one is
    has g++ || echo g++                                         # PyTorch and DeepSpeed compile CPU kernels
    (PATH=$PATH:/sbin:/usr/sbin && ldconfig -p) | grep -c 'libnuma\.so\.1' >/dev/null || echo libnuma1 # vLLM
}

# Prints those that only tests need: of the stronger sandboxes, of the dashboards, and of the report.
missing_test_packages() {
    if ! docker info >/dev/null 2>&1; then
        has dockerd || echo docker.io # a docker client alone is not enough
        has iptables || echo iptables
    fi
    has bwrap || echo bubblewrap
    has debootstrap || echo debootstrap # the sandbox image where no registry is reachable
    has runsc || echo runsc             # gVisor
    has prometheus || echo prometheus   # and its promtool
    # The report is opened in it; Ubuntu has it only as a snap.
    has chromium || has google-chrome || [ "$(of_system ID)" != debian ] || echo chromium
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
        has apt-get || fail "these packages are missing, by Debian's names: $missing; install what this system calls them, and then make again"
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

# pip into .venv; what it said is in $PIP_LOG.
pip_install() { .venv/bin/python -m pip --disable-pip-version-check -q install --no-compile "$@" >"$PIP_LOG" 2>&1; }

no_network() { grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|SSLError|Max retries|Connection (broken|refused|reset)|name resolution|Network is unreachable' "$PIP_LOG"; }

# Ends with why pip could not install what $1 names.
pip_failed() {
    local last
    last=$(grep -E '^ *ERROR' "$PIP_LOG" | tail -n 1 || true)
    if grep -q 'No space left' "$PIP_LOG"; then
        fail "the disk is full: $1 did not fit (see df -h . and pip cache purge)"
    elif no_network; then
        fail "no package index was reached for $1: check the network, or tell pip of a proxy (https_proxy) or a mirror (pip config set global.index-url URL); pip says: ${last:-$(tail -n 1 "$PIP_LOG")}"
    fi
    fail "pip could not install $1: ${last:-$(tail -n 1 "$PIP_LOG")} (a mirror of pip's settings may lack it: pip config list)"
}

# PyTorch's CPU build: from pip's own indexes where they have it, else from PyTorch's.
cpu_torch() {
    local why
    pip_install --no-deps "torch==$TORCH+cpu" && return
    pip_install --no-deps --retries 1 --timeout 15 --extra-index-url "$TORCH_INDEX" "torch==$TORCH+cpu" && return
    if no_network; then why="cannot be reached"; else why="has no torch==$TORCH+cpu for this Python and machine"; fi
    say "WARNING: $TORCH_INDEX $why, so the CUDA build comes from pip's own index: several GB more, which nothing uses. Ctrl-C and TORCH_INDEX=URL (a mirror of it) avoid that"
    pip_install "torch==$TORCH" || pip_failed "torch==$TORCH"
}

virtual_environment() {
    local stamp python device lock needed free
    device=$(device)
    lock=requirements-$device.txt
    python=$(find_python)
    stamp=.venv/.ready-$( (pwd && version_of "$python" && cat "$lock" pyproject.toml cluster/setup.sh) | sha256sum | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    # vLLM's builds for CPUs and for GPUs are two packages with the same files.
    [ "$(cat .venv/.device 2>/dev/null || echo "$device")" = "$device" ] || rm -rf .venv
    rm -f .venv/.ready-*
    if [ "$(version_of .venv/bin/python)" != "$(version_of "$python")" ]; then
        if [ "$device" = cpu ]; then needed=5; else needed=14; fi
        free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
        [ "$free" -ge "$needed" ] || fail "the packages take $needed GB, and $(pwd) has $free GB free: make room there"
        "$python" -m venv --clear .venv || fail "$python could not make .venv (see above)"
    fi
    PIP_LOG=$(mktemp)
    [ "${1:-}" != train ] || say "make train: packages first, then the training itself, which says what it needs (the quickstart: 20 minutes on 2 idle cores)"
    say "installing the Python packages of $lock into .venv (4 GB, 12 GB for a GPU; a few minutes, once)"
    if [ "$device" = cpu ]; then cpu_torch; fi
    pip_install --no-deps -r "$lock" || pip_failed "the packages of $lock"
    pip_install --no-deps --no-build-isolation --editable . || pip_failed "the project itself"
    rm "$PIP_LOG"
    # pip would compile with one core; some packages carry templates that are no Python, which is no failure.
    .venv/bin/python -m compileall -qq -j 0 .venv/lib || true
    echo "$device" >.venv/.device
    touch "$stamp"
    say "set up in $SECONDS s"
}

supported_machine
system_packages "$@"
virtual_environment "$@"
