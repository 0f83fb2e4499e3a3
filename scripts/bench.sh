#!/usr/bin/env bash
# `make bench`: windlassd under a private root, and a daemon to compare with, driven in turn by our own harness.
#
#   CONTAINERD  socket of a running stock containerd; without it windlassd is measured alone
#   BENCH_ROOT  directory for windlassd's root: on the same file system as the other daemon's (default: a temporary one)
#   CNI_CONF    directory with the network configuration of pods (default /etc/cni/net.d); CNI_BIN: its plugins
#   ARGS        further arguments of the harness, see windlass-bench --help
set -euo pipefail
bin=$(realpath "${BIN:-target/release}")
[ "$(id -u)" = 0 ] || { echo "bench: containers need root." >&2; exit 1; }
work=$(mktemp -d -t windlass-bench.XXXXXX)
chmod 0711 "$work"
root=${BENCH_ROOT:-$work}/windlass-bench-root.$$
daemon=
finish() {
  trap - EXIT
  set +e
  if [ -n "$daemon" ]; then
    "$bin/windlass" --address "$work/windlass.sock" rm --force --all --all-namespaces >/dev/null 2>&1
    kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null
  fi
  grep -oE " ($work|$root)/[^ ]*" /proc/self/mounts | sort -r | while read -r m; do umount -l "$m" 2>/dev/null; done
  rm -rf "$work" "$root"
}
trap finish EXIT
trap 'exit 130' INT TERM
cat >"$work/config.toml" <<T
version = 3
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["${CNI_BIN:-/usr/lib/cni}"]
  conf_dir = "${CNI_CONF:-/etc/cni/net.d}"
T
PATH=$bin:$PATH "$bin/windlassd" --config "$work/config.toml" --root "$root" --state "$work/state" --address "$work/windlass.sock" 2>"$work/log" &
daemon=$!
"$bin/windlass" --address "$work/windlass.sock" version --wait 10s >/dev/null || { cat "$work/log" >&2; exit 1; }
# shellcheck disable=SC2086
"$bin/windlass-bench" --windlass "$work/windlass.sock" ${CONTAINERD:+--other "$CONTAINERD"} ${ARGS:-}
