#!/usr/bin/env bash
# The same in a shell: one export of a configuration at a time in the whole fleet.
#
#   eval "$(interlock env)" && bash lock.sh
set -euo pipefail
export config=hex8_2p exports="${EXPORTS:-exports}"
mkdir -p "$exports"

# The lock is held while the command runs, and the command is ended when the lock is lost. It works
# beside; what takes effect, the rename, shows the token to the fence.
interlock lock run "export:$config" --ttl 30 --wait 60 --note nightly -- bash -euc '
  scratch=$(mktemp -d "$exports/.scratch.XXXXXX")
  trap "rm -rf \"$scratch\"" EXIT
  echo games >"$scratch/games.txt"
  interlock lock guard "$exports/.fence" "$config.txt" "$INTERLOCK_LOCK_TOKEN" -- \
    mv "$scratch/games.txt" "$exports/$config.txt"
  echo "exported under token $INTERLOCK_LOCK_TOKEN"
'
