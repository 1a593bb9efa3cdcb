#!/usr/bin/env bash
# A JobSet on GKE, from launch/gke_tpu.yaml or launch/gke_gpu.yaml, by the accelerator's name.
#
#   NAME=… IMAGE=… CLAIM=… ACCELERATOR=tpu-v6e-slice TOPOLOGY=4x4 launch/gke.sh submit [NAME=VALUE…] FLAGS…
#   NAME=… IMAGE=… CLAIM=… ACCELERATOR=nvidia-h100-80gb NODES=2 launch/gke.sh submit [NAME=VALUE…] FLAGS…
#   NAME=… launch/gke.sh status | logs [FLAGS of kubectl logs] | delete
#
# FLAGS are those of headjax.main; assignments before them become its environment. CLAIM is a
# persistent volume claim that all pods may write; it is mounted at MOUNT (/shared).
# Optional, TPU: CHIPS (a host, 4), SLICES (1). GPU: GPUS (a node, 8), PORT (55527). Both: RESTARTS
# (50), GRACE (seconds to save in, 120), QUEUE (of Kueue), NAMESPACE, PLAN=1, DRY_RUN=1 (prints the
# commands and the manifest, runs none).

# shellcheck disable=SC2034  # the templates read the variables
set -euo pipefail
SCRIPT=launch/gke.sh
folder=$(dirname "$0")
# shellcheck source=launch/common.sh
. "$folder/common.sh"

kube() {
  execute kubectl "$@" ${NAMESPACE:+--namespace="$NAMESPACE"}
}

# A text as a JSON string, which is one of YAML as well.
json() {
  local text="$1" index one out=
  for ((index = 0; index < ${#text}; index++)); do
    one="${text:index:1}"
    case "$one" in
      '"' | \\) out+="\\$one" ;;
      $'\n') out+='\n' ;;
      $'\t') out+='\t' ;;
      [[:cntrl:]]) fail "a flag holds a control character: $(printed "$text")" ;;
      *) out+="$one" ;;
    esac
  done
  printf '"%s"' "$out"
}

# Words as a JSON list. Kubernetes reads $(NAME) in commands; a doubled dollar is a plain one.
json_list() {
  local word out=
  for word in "$@"; do
    out+="${out:+, }$(json "${word//\$/\$\$}")" || exit
  done
  echo "[$out]"
}

# The template with every ${NAME} replaced by that variable, once, whatever its value holds.
filled() {
  local rest out="" name open="\${"
  rest=$(< "$1")
  while [[ "$rest" == *"$open"* ]]; do
    out+="${rest%%"$open"*}"
    rest="${rest#*"$open"}"
    name="${rest%%"}"*}"
    rest="${rest#*"}"}"
    out+="${!name}"
  done
  printf '%s\n' "$out$rest"
}

# What both templates hold.
shared_values() {
  need NAME IMAGE CLAIM ACCELERATOR
  need_name 40
  RESTARTS="${RESTARTS:-50}" GRACE="${GRACE:-120}"
  need_number GRACE
  [[ "$RESTARTS" =~ ^[0-9]+$ ]] || fail "RESTARTS must be a whole number, not '$RESTARTS'"
  MOUNT=$(json "${MOUNT:-/shared}")
  IMAGE=$(json "$IMAGE")
  CLAIM=$(json "$CLAIM")
  LABELS="{}"
  [ -z "${QUEUE:-}" ] || LABELS="{kueue.x-k8s.io/queue-name: $(json "$QUEUE")}"
  COMMAND=$(json_list env "${ASSIGNMENTS[@]}" python -m headjax.main --distributed=on "${FLAGS[@]}")
}

# The hosts of a slice, by the topology's chips.
tpu_values() {
  local chips=1 side generation
  need TOPOLOGY
  CHIPS="${CHIPS:-4}" SLICES="${SLICES:-1}"
  need_number CHIPS SLICES
  [[ "$TOPOLOGY" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "TOPOLOGY must be like 4x4 or 2x2x2, not '$TOPOLOGY'"
  for side in ${TOPOLOGY//x/ }; do chips=$((chips * side)); done
  [ $((chips % CHIPS)) = 0 ] || fail "a slice of $TOPOLOGY has $chips chips, not hosts of CHIPS=$CHIPS each"
  HOSTS=$((chips / CHIPS))
  case "$ACCELERATOR" in
    tpu-v4-*) generation=v4 ;; tpu-v5-lite-*) generation=v5e ;;
    tpu-v5p-*) generation=v5p ;; tpu-v6e-*) generation=v6e ;; *) generation= ;;
  esac
  plan "${generation:+$generation:$TOPOLOGY}" "${FLAGS[@]}"
  ACCELERATOR=$(json "$ACCELERATOR")
  TOPOLOGY=$(json "$TOPOLOGY")
}

gpu_values() {
  local card
  NODES="${NODES:-1}" GPUS="${GPUS:-8}" PORT="${PORT:-55527}"
  need_number NODES GPUS PORT
  COORDINATOR=$(json "$NAME-node-0-0.$NAME:$PORT")
  PROCESSES=$(json "$NODES")
  case "$ACCELERATOR" in
    nvidia-a100-80gb) card=a100-80gb ;;
    nvidia-tesla-a100) card=a100-40gb ;;
    nvidia-tesla-*) card="${ACCELERATOR#nvidia-tesla-}" ;;
    nvidia-*) card="${ACCELERATOR#nvidia-}" card="${card%%-*}" ;;
  esac
  plan "$card:$((NODES * GPUS))" "${FLAGS[@]}"
  ACCELERATOR=$(json "$ACCELERATOR")
}

submit() {
  local template manifest
  take_flags "$@"
  shared_values
  case "$ACCELERATOR" in
    tpu*) template=gke_tpu.yaml && tpu_values ;;
    nvidia-*) template=gke_gpu.yaml && gpu_values ;;
    *) fail "ACCELERATOR must be a TPU or an NVIDIA card as GKE names them (tpu-v6e-slice, nvidia-h100-80gb), not '$ACCELERATOR'" ;;
  esac
  manifest=$(filled "$folder/$template")
  if is_set "${DRY_RUN:-}"; then
    echo "$(kube create --filename=-) <<'MANIFEST'"
    printf '%s\nMANIFEST\n' "$manifest"
  else
    kube create --filename=- <<< "$manifest"
  fi
}

answer_help "${1:-}"
action="$1"
shift
case "$action" in
  submit) submit "$@" ;;
  status | logs | delete) need NAME ;;
  *) fail "there is no '$action'; there are submit, status, logs and delete" ;;
esac
case "$action" in
  status) kube get "jobset/$NAME" && kube get pods --selector="jobset.sigs.k8s.io/jobset-name=$NAME" ;;
  logs) kube logs --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --prefix --tail=50 --max-log-requests=256 "$@" ;;
  delete) kube delete "jobset/$NAME" ;;
esac
