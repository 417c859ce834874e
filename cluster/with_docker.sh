#!/usr/bin/env bash
# Runs a command with a Docker Engine: the one that answers, or one started here and stopped again (needs root).
set -euo pipefail

if ! docker info >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v dockerd >/dev/null; then
    log=$(mktemp)
    setsid dockerd >"$log" 2>&1 & # out of reach of Ctrl-C: the command still has containers to remove
    engine=$!
    trap 'kill "$engine" 2>/dev/null && wait "$engine" || true; rm -f "$log"' EXIT
    for _ in $(seq 60); do
        if docker info >/dev/null 2>&1 || ! kill -0 "$engine" 2>/dev/null; then break; fi
        sleep 0.5
    done
    docker info >/dev/null 2>&1 || echo "no Docker Engine: dockerd did not start: $(tail -n 1 "$log")"
fi

"$@"
