#!/usr/bin/env bash
# A worker in a shell script: the command line publishes, and returns once it is on disk.
#
#   eval "$(interlock env)" && bash worker.sh
set -euo pipefail
interlock legacy send SELFPLAY_COMPLETE config_key=hex8_2p games_generated=400 host="$(hostname)"
interlock publish training.completed config=hex8_2p model=v12 final_loss=0.41
