#!/usr/bin/env bash
# A TPU VM from its creation to the results.
#
#   NAME=… ZONE=… TYPE=… RUNTIME=… launch/tpu_vm.sh create [FLAGS…, with PLAN=1]
#   NAME=… ZONE=… launch/tpu_vm.sh setup             this clone's HEAD, Python 3.12, headjax[tpu]
#   NAME=… ZONE=… launch/tpu_vm.sh run FLAGS…        headjax.main on all workers, in the background
#   NAME=… ZONE=… launch/tpu_vm.sh each COMMAND      a shell command on all workers
#   NAME=… ZONE=… launch/tpu_vm.sh logs              the last lines of every worker
#   NAME=… ZONE=… launch/tpu_vm.sh stop              SIGTERM: saves; the same `run` goes on from there
#   NAME=… ZONE=… launch/tpu_vm.sh fetch             runs/ of worker 0, into this folder
#   NAME=… ZONE=… launch/tpu_vm.sh delete            it costs money until then
#
# Optional: PROJECT, SPOT=1, SLICES=N (machines NAME-0 to NAME-(N-1), from launch/queued_resource.sh),
# FROM (what `fetch` copies, headjax/runs), PLAN=1, DRY_RUN=1 (prints the commands, runs none).
set -euo pipefail
cd "$(dirname "$0")/.."
SCRIPT=launch/tpu_vm.sh
. launch/common.sh

tpu() {
  execute gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

machines() {
  local index
  if [ "${SLICES:-1}" = 1 ]; then
    echo "$NAME"
  else
    for ((index = 0; index < SLICES; index++)); do echo "$NAME-$index"; done
  fi
}

everywhere() {
  local machine
  for machine in $(machines); do
    tpu ssh "$machine" --worker=all --command="$1"
  done
}

create() {
  need NAME ZONE TYPE RUNTIME
  [ "${SLICES:-1}" = 1 ] || fail "several slices come from launch/queued_resource.sh"
  plan "$(tpu_topology "$TYPE")" "$@"
  is_set "${SPOT:-}" || SPOT=
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$RUNTIME" ${SPOT:+--spot}
}

setup() {
  local archive=build/headjax.tar.gz machine
  execute mkdir -p build
  execute git archive --format=tar.gz --output="$archive" HEAD
  for machine in $(machines); do
    tpu scp "$archive" "$machine:headjax.tar.gz" --worker=all
  done
  everywhere 'set -e; mkdir -p headjax && tar -xzf headjax.tar.gz -C headjax
python3 -m pip install --user --quiet uv
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/venv
~/.local/bin/uv pip install --quiet --python ~/venv/bin/python -e "./headjax[tpu]"'
}

run() {
  local assignments flags
  take_flags "$@"
  assignments=$(printed "${ASSIGNMENTS[@]}")
  flags=$(printed "${FLAGS[@]}")
  everywhere "cd headjax
if [ -e run.pid ] && kill -0 \"\$(cat run.pid)\" 2> /dev/null; then
  echo \"\$(hostname): a run is under way; launch/tpu_vm.sh stop ends it\" >&2
  exit 2
fi
nohup env $assignments ~/venv/bin/python -m headjax.main --distributed=on $flags >> run.log 2>&1 < /dev/null &
echo \$! > run.pid"
}

each() {
  [ $# = 1 ] || fail "each takes one command, in quotes"
  everywhere "$1"
}

fetch() {
  local first
  read -r first <<< "$(machines)"
  tpu scp --recurse "$first:${FROM:-headjax/runs}" . --worker=0
}

answer_help "${1:-}"
action="$1"
shift
case "$action" in
  create) ;;
  setup | run | each | logs | stop | fetch | delete) need NAME ZONE ;;
  *) fail "there is no '$action'; there are create, setup, run, each, logs, stop, fetch and delete" ;;
esac
[ -z "${SLICES:-}" ] || need_number SLICES
case "$action" in
  create) create "$@" ;;
  setup) setup ;;
  run) run "$@" ;;
  each) each "$@" ;;
  logs) everywhere 'tail -n 50 headjax/run.log' ;;
  stop) everywhere "kill -TERM \"\$(cat headjax/run.pid)\"" ;;
  fetch) fetch ;;
  delete) tpu delete "$NAME" --quiet ;;
esac
