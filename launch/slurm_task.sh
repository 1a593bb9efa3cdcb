#!/usr/bin/env bash
# One task of launch/slurm.sbatch: runs a command and, if that was stopped before its end, leaves a file.
#
#   launch/slurm_task.sh FILE COMMAND…
#
# Exit code 75 of the command says that it was stopped. It becomes 0 here, because the first task
# that ends with another code makes srun kill those that are still saving.
set -euo pipefail
SCRIPT=launch/slurm_task.sh
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

answer_help "${1:-}"
[ $# -ge 2 ] || fail "give a file and a command"
file="$1"
shift
# SLURM signals the command as well; this shell has only to outlive it.
trap : TERM INT
code=0
HEADJAX_STOPPED_CODE=75 "$@" || code=$?
if [ "$code" = 75 ]; then
  : > "$file"
  code=0
fi
exit "$code"
