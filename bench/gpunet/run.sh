#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# GPUNet from its configuration to the tables. README.md beside this file says what the environment variables are.
bench=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
PYTHONPATH="$bench${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m gpunet "$@"
