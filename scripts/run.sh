#!/usr/bin/env bash
# `make run`: a private daemon with default configuration, one container, and a prompt to try more. Ctrl-C ends it all.
set -euo pipefail
bin=$(realpath "${BIN:-target/release}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ "$(id -u)" = 0 ] || { echo "make run: containers need root: run it with sudo." >&2; exit 1; }

work=$(mktemp -d -t windlass.XXXXXX)
chmod 0711 "$work"
address=$work/windlass.sock
daemon=
finish() {
  trap - EXIT INT TERM
  set +e
  if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
    "$bin/windlass" --address "$address" rm --force --all >/dev/null 2>&1
    kill "$daemon" 2>/dev/null
    wait "$daemon" 2>/dev/null
  fi
  grep -o " $work/[^ ]*" /proc/self/mounts | sort -r | while read -r m; do umount -l "$m" 2>/dev/null; done
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

PATH=$bin:$PATH "$bin/windlassd" --root "$work/root" --state "$work/state" --address "$address" 2>"$work/log" &
daemon=$!
"$bin/windlass" --address "$address" version --wait 10s >/dev/null || { cat "$work/log" >&2; exit 1; }
echo "windlassd runs (process $daemon, socket $address)"

if [ -n "${IMAGE:-}" ]; then
  image=$IMAGE
  "$bin/windlass" --address "$address" pull "$image"
  "$bin/windlass" --address "$address" run --rm "$image"
else
  image=docker.io/windlass/demo:latest
  "$here/demo-image.sh" "$work/demo.tar" "$image"
  "$bin/windlass" --address "$address" import "$work/demo.tar"
  "$bin/windlass" --address "$address" run --rm "$image" /bin/sh -c \
    'echo "Hello from a container: $(uname -s), process $$, $(ls /bin | wc -l) programs in /bin."'
fi
cat <<T

Try next, in another terminal:
  $bin/windlass --address $address run --rm -it $image /bin/sh
  $bin/windlass --address $address images

Ctrl-C ends the daemon and removes everything.
T
[ -t 0 ] || [ -z "${WINDLASS_RUN_ONCE:-}" ] || exit 0
wait "$daemon"
