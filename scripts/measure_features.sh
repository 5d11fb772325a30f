#!/usr/bin/env bash
# Writes the rows of results/features: every codec on every network, one JSON file each. Needs TENSORPRESS_DATA and the
# `tensorpress` command. Rows that exist are kept; remove a file to measure it anew. Each row holds its own command.
#   scripts/measure_features.sh [network ...]
set -euo pipefail
: "${TENSORPRESS_DATA:?set TENSORPRESS_DATA to the folder of networks and pictures}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rows=results/features
data=$TENSORPRESS_DATA

imagenet=(--images $data/imagenet/images --labels $data/imagenet/labels.csv --calib-limit 64 --limit 200)
cifar=(--images $data/cifar10/test_500.npz --calib-images $data/cifar10/train_10k.npz --calib-limit 256)

declare -A network=(
  [resnet50]="--arch resnet50 --weights $data/imagenet/resnet50_pqf.npz ${imagenet[*]}"
  [resnet18]="--arch resnet18 --weights $data/imagenet/resnet18_pqf.npz ${imagenet[*]}"
  [mobilenet_v2]="--model $data/imagenet/mobilenet_v2_tf.py:load --weights $data/imagenet/mobilenet_v2_tf.safetensors --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --label-offset 1 ${imagenet[*]}"
  [squeezenet1_1]="--arch squeezenet1_1 --weights $data/imagenet/squeezenet1_1_ncnn.safetensors ${imagenet[*]}"
  [cifar_resnet20]="--arch cifar_resnet20 --weights $data/cifar10/resnet20.safetensors ${cifar[*]}"
  [cifar_resnet56]="--arch cifar_resnet56 --weights $data/cifar10/resnet56.safetensors ${cifar[*]}"
)

measure() { # name, arguments
  local file="$rows/$1.json"
  shift
  [ -e "$file" ] && return
  echo "$(basename "$file" .json): tensorpress features evaluate $*"
  tensorpress features evaluate "$@" --json "$file" >/dev/null
}

for name in ${*:-resnet50 resnet18 mobilenet_v2 squeezenet1_1 cifar_resnet20 cifar_resnet56}; do
  for codec in dct_cm uniform_rans klt zvc; do
    measure "$name-$codec" ${network[$name]} --codec "$codec" --max-kl 0.02
  done
  measure "$name-raw" ${network[$name]} --codec raw
  measure "$name-dct_cm-paper" ${network[$name]} --codec dct_cm --set profile=paper --max-kl 0.02
  measure "$name-dct_cm-max" ${network[$name]} --codec dct_cm --scale max --max-kl 0.02
done
