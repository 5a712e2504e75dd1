#!/bin/sh
# Install Antiphon from the source tree in $1 into the virtual environment $2, with both default models in the home $3.
# The Dockerfile runs this; on a bare Debian the same three arguments do the same (all it needs is Python with venv and, to serve a model, libgomp1).
set -eu
source_tree=$1 environment=$2 home=$3

python3 -m venv "$environment"
"$environment/bin/pip" install --no-cache-dir --disable-pip-version-check \
    --constraint "$source_tree/constraints.txt" "$source_tree[local,redis,postgres]"

mkdir -p "$home"
for model in smollm2-135m-instruct all-minilm-l6-v2; do
    ANTIPHON_HOME="$home" "$environment/bin/antiphon" models pull "$model"
done
