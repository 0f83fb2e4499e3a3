#!/usr/bin/env bash
# Installs what a build (or, with "test", the tests) needs. Debian and Ubuntu by apt; elsewhere it names what is missing.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc build-essential
need make make
need busybox busybox-static
if [ "${1:-build}" = test ]; then
  need git git
  need ip iproute2
  need iptables iptables
  need nsenter util-linux
  [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
fi
if [ ${#missing[@]} -gt 0 ]; then
  if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing: ${missing[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"; } >/dev/null
  else
    echo "missing: ${missing[*]} (names of Debian's packages). Install them, or run as root on Debian or Ubuntu." >&2
    exit 1
  fi
fi
if ! command -v cargo >/dev/null 2>&1; then
  echo "missing: a Rust toolchain, 1.95 or newer. See https://www.rust-lang.org/tools/install" >&2
  exit 1
fi
