#!/usr/bin/env bash
# Ray on this machine until `ray stop`, with all its GPUs, or as many as asked for. What is given goes to `ray start`.
# The environment that has Lamina's dependencies must be active.
#
#   clusters/one_machine.sh [--num-gpus 4]
set -euo pipefail
export RAY_AUTH_MODE=token
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then
    ray get-auth-token --generate > /dev/null
fi
exec ray start --head --node-ip-address=127.0.0.1 --disable-usage-stats "$@"
