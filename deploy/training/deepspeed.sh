#!/bin/bash
# Train a recipe on the hosts of a hostfile with DeepSpeed's launcher. Start it once: it reaches the others by
# pdsh and ssh without a password, where the same environment and the recipe lie under the same paths.
#   HOSTFILE=hostfile deploy/training/deepspeed.sh /shared/shop/recipe.yaml [options of `chatwright run`]
# Where there is no ssh, start it on every host with the host's place in the hostfile (0, 1, …) and one address:
#   HOSTFILE=hostfile HOST=0 FIRST=node-1 deploy/training/deepspeed.sh /shared/shop/recipe.yaml
set -euo pipefail

options=(--hostfile "${HOSTFILE:-hostfile}" --master_port "${PORT:-29500}")
if [ -n "${HOST:-}" ]; then
  options+=(--no_ssh --node_rank "$HOST" --master_addr "${FIRST:?name of the first host}")
fi
# --no_local_rank: the rank comes in the environment, and `chatwright run` has no option for it
exec deepspeed "${options[@]}" --no_local_rank --module chatwright run "$@"
