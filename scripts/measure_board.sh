#!/usr/bin/env bash
# The leaderboard's rows, results/board/<network>.json: `scripts/measure_board.sh [network …]`. Needs TENSORPRESS_DATA; stopped, it goes on where it was.
# ENTRIES (separated by ';'), LIMIT (pictures) and JOBS may be set.
set -euo pipefail
data=${TENSORPRESS_DATA:?names the folder of networks and pictures}
cd "$(dirname "$0")/.."
imagenet="--images $data/imagenet/images --labels $data/imagenet/labels.csv"
declare -A networks=(
  [resnet50]="--arch resnet50 --weights $data/imagenet/resnet50_pqf.npz $imagenet"
  [resnet18]="--arch resnet18 --weights $data/imagenet/resnet18_pqf.npz $imagenet"
  [mobilenet_v2]="--model $data/imagenet/mobilenet_v2_tf.py:load --weights $data/imagenet/mobilenet_v2_tf.safetensors --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --label-offset 1 $imagenet"
  [squeezenet1_1]="--arch squeezenet1_1 --weights $data/imagenet/squeezenet1_1_ncnn.safetensors $imagenet"
  [cifar_resnet20]="--arch cifar_resnet20 --weights $data/cifar10/resnet20.safetensors --images $data/cifar10/test_500.npz"
  [cifar_resnet56]="--arch cifar_resnet56 --weights $data/cifar10/resnet56.safetensors --images $data/cifar10/test_500.npz"
)
export OMP_NUM_THREADS=1
for name in ${*:-resnet50 resnet18 mobilenet_v2 squeezenet1_1 cifar_resnet20 cifar_resnet56}; do
  # shellcheck disable=SC2086
  tensorpress features leaderboard ${networks[$name]} ${ENTRIES:+--codecs "$ENTRIES"} --limit "${LIMIT:-100}" --points "${POINTS:-4}" \
    --jobs "${JOBS:-2}" --work "build/board/$name" --json "results/board/$name.json" --out "build/board/$name.html"
done
