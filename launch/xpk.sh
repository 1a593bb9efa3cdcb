#!/usr/bin/env bash
# A workload on TPUs of a GKE cluster that xpk made.
#
#   NAME=… CLUSTER=… TYPE=… IMAGE=… launch/xpk.sh create [NAME=VALUE…] FLAGS…
#   CLUSTER=… launch/xpk.sh list
#   NAME=… CLUSTER=… launch/xpk.sh delete
#
# FLAGS are those of headjax.main; assignments before them become its environment.
# Optional: SLICES (1), RESTARTS (50), GRACE (seconds to save in, 120), PRIORITY (medium), ZONE,
# PROJECT, PLAN=1, DRY_RUN=1 (prints the commands, runs none).
#
# xpk itself sends telemetry to Google, unless told: xpk config set send-telemetry false
set -euo pipefail
SCRIPT=launch/xpk.sh
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

workload() {
  execute xpk workload "$@" --cluster="$CLUSTER" ${PROJECT:+--project="$PROJECT"} ${ZONE:+--zone="$ZONE"}
}

# xpk runs the command in a subshell and sends SIGTERM to that: `exec` makes it Python. It restarts
# after a few exit codes only: 1 is a crash, 75 a run that was stopped, 2 (never) a user's mistake.
create() {
  local command
  need_name 28
  take_flags "$@"
  plan "$(tpu_topology "$TYPE")" "${FLAGS[@]}"
  command=$(printed exec env HEADJAX_STOPPED_CODE=75 "${ASSIGNMENTS[@]}" \
    python -m headjax.main --distributed=on "${FLAGS[@]}")
  echo "$SCRIPT: xpk sends telemetry unless told: xpk config set send-telemetry false" >&2
  workload create --workload="$NAME" --docker-image="$IMAGE" --tpu-type="$TYPE" \
    --num-slices="${SLICES:-1}" --command="$command" --max-restarts="${RESTARTS:-50}" \
    --restart-on-exit-codes=1,75 --termination-grace-period-seconds="${GRACE:-120}" \
    --priority="${PRIORITY:-medium}"
}

answer_help "${1:-}"
action="$1"
shift
case "$action" in
  create) need NAME CLUSTER TYPE IMAGE ;;
  list) need CLUSTER ;;
  delete) need NAME CLUSTER ;;
  *) fail "there is no '$action'; there are create, list and delete" ;;
esac
case "$action" in
  create) create "$@" ;;
  list) workload list ;;
  delete) workload delete --workload="$NAME" ;;
esac
