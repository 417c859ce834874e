#!/usr/bin/env bash
# Builds images with the Docker Engine that answers: cpu and cuda (Ray nodes), sandbox (experiments); all, or those
# named. IMAGE_PREFIX goes before their names, such as registry.example/team/ for a later `docker push`. Further
# arguments of `docker build` come from DOCKER_BUILD, such as DOCKER_BUILD="--build-arg BASE=...".
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
prefix=${IMAGE_PREFIX:-}

docker info >/dev/null || {
    echo "error: no Docker Engine answers: start one, or set DOCKER_HOST" >&2
    exit 1
}

[ $# -gt 0 ] || set -- cpu cuda sandbox
for target in "$@"; do
    case "$target" in
        cpu | cuda)
            name="${prefix}mlagent-ray:$version-$target"
            # shellcheck disable=SC2086
            docker build --file cluster/images/Dockerfile --target "$target" --tag "$name" ${DOCKER_BUILD:-} .
            ;;
        sandbox)
            name="${prefix}mlagent-sandbox:$version"
            built=$(.venv/bin/python -c 'import docker; from envs.sandbox.image import ensure
from envs.sandbox.packages import OwnPackages
print(ensure(docker.from_env(timeout=600), OwnPackages()))')
            docker tag "$built" "$name"
            ;;
        *)
            echo "error: $target: the images are cpu, cuda and sandbox" >&2
            exit 2
            ;;
    esac
    echo "built $name"
done
