#!/usr/bin/env bash
# Unmodified clients against windlassd: the descriptor comparison, ctr, containerd's own client suite, each of CRI's
# RPCs through Kubernetes' Go packages, each of crictl's commands, critest, NRI plugins, and a kubelet with its pods.
#
#   RIG       directory whose bin holds ctr, runc, client.test (containerd's integration/client, compiled), crictl and
#             critest
#   ONLY      "descriptors", "ctr", "client", "runc", "cri", "crictl", "critest", "nri", "kubelet": these parts alone;
#             "client" and "runc" are the client suite, on the embedded runtime and on runc; for "kubelet" see
#             scripts/kubelet.sh. "scale" is run when it is named only: it takes some minutes
#   AT_LEAST  client tests that must pass (default 75)
#   CRITEST_AT_LEAST  specs of critest that must pass (default 106)
#   CNI_BIN, CNI_CONF, CERTS  for pods: CNI's plugins (default /usr/lib/cni), a folder with its configuration (default
#             $RIG/cni), and registries' hosts.toml (default $RIG/certs.d, if it is there)
#   OCI_RUNTIME  what runs the containers of the parts that have pods: runc, crun, … (default: the shim itself)
# A plain HTTP registry with library/busybox:latest is expected on 127.0.0.1:5000 (REGISTRY).
set -euo pipefail
bin=$(realpath "${BIN:-target/release}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
only=${ONLY:-descriptors ctr client runc cri crictl critest nri kubelet}

missing() { echo "conformance: $1 is missing. $2" >&2; exit 1; }
[ "$(id -u)" = 0 ] || missing "root" "Containers need it."
command -v go >/dev/null || missing "go" "The clients are Go programs."
[ -n "${RIG:-}" ] || missing "RIG" "Set it to the directory whose bin holds ctr, runc and client.test."
for b in ctr runc client.test; do [ -x "$RIG/bin/$b" ] || missing "$RIG/bin/$b" "See the head of scripts/conformance.sh."; done
curl -fsS "http://${REGISTRY:-127.0.0.1:5000}/v2/" >/dev/null || missing "a registry on ${REGISTRY:-127.0.0.1:5000}" "Start one or set REGISTRY."

work=$(mktemp -d -t windlass-conformance.XXXXXX)
chmod 0711 "$work"
daemon= pods=
stop() {
  # What a failed test left running goes with its shim; pods take their networks along.
  [ -z "$pods" ] || timeout 60 "$RIG/bin/crictl" -r "unix://$address" rmp --force --all >/dev/null 2>&1 || true
  pods=
  [ -z "$daemon" ] || timeout 60 "$bin/windlass" --address "$address" rm --force --all --all-namespaces >/dev/null 2>&1 || true
  [ -n "$daemon" ] && kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true
  daemon=
}
finish() {
  trap - EXIT
  set +e
  stop
  for pid in "$work"/*/state/*/*/*/shim.pid; do [ -f "$pid" ] && kill -KILL "$(cat "$pid")" 2>/dev/null; done
  grep -o " $work/[^ ]*" /proc/self/mounts | sort -r | while read -r m; do umount -l "$m" 2>/dev/null; done
  [ -n "${KEEP:-}" ] || rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
# Before registries get a certificate authority of their own: the module registry may have another.
( cd "$here/tests/go" && go mod download )
[ ! -f "$RIG/ca-bundle.pem" ] || export SSL_CERT_FILE=$RIG/ca-bundle.pem
export PATH=$bin:$RIG/bin:$PATH

start() { # start NAME [CONFIG]: a fresh daemon; its socket in $address
  local dir=$work/$1
  mkdir -p "$dir"
  printf '%s\n' "${2:-version = 3}" >"$dir/config.toml"
  address=$dir/windlass.sock
  "$bin/windlassd" --config "$dir/config.toml" --root "$dir/root" --state "$dir/state" --address "$address" 2>"$dir/log" &
  daemon=$!
  "$bin/windlass" --address "$address" version --wait 10s >/dev/null || { tail -20 "$dir/log" >&2; exit 1; }
}

plugins=${CNI_BIN:-/usr/lib/cni} networks=${CNI_CONF:-$RIG/cni} registries=${CERTS:-$RIG/certs.d}
for_pods() { # what pods need is there
  [ -x "$plugins/bridge" ] || missing "$plugins/bridge" "Install CNI's plugins or set CNI_BIN."
  ls "$networks"/*.conf* >/dev/null 2>&1 || missing "a configuration of CNI in $networks" "Set CNI_CONF."
}

start_for_pods() { # start_for_pods NAME: a fresh daemon that runs pods
  local config
  for_pods
  [ -x "$RIG/bin/crictl" ] || missing "$RIG/bin/crictl" "See the head of scripts/conformance.sh."
  config='version = 3
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["'$plugins'"]
  conf_dir = "'$networks'"'
  [ ! -d "$registries" ] || config+='
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "'$registries'"'
  [ -z "${OCI_RUNTIME:-}" ] || config+='
[plugins."io.containerd.shim.v1.manager"]
  oci_runtime = "'$OCI_RUNTIME'"'
  start "$1" "$config"
  pods=1
}

critest() { # counts the specs that pass
  local log=$work/critest.log passed
  echo "--- critest"
  ( cd "$work/critest" && timeout 900 "$RIG/bin/critest" --runtime-endpoint "unix://$address" --image-endpoint "unix://$address" \
    --ginkgo.no-color ) >"$log" 2>&1 || true
  [ -z "${LOGS:-}" ] || cp "$log" "$LOGS/" 2>/dev/null || true
  grep -E '^ *\[FAIL\]' "$log" | sort -u || true
  passed=$(sed -n 's/.* \([0-9]*\) Passed .*/\1/p' "$log" | tail -n 1)
  echo "critest: ${passed:-0} specs passed"
  [ "${passed:-0}" -ge "${CRITEST_AT_LEAST:-106}" ] || { echo "fewer than ${CRITEST_AT_LEAST:-106} passed; the end of the log:" >&2; tail -40 "$log" >&2; exit 1; }
}

client_suite() { # client_suite NAME: counts the top-level tests that pass
  local log=$work/$1.log passed
  echo "--- containerd's client suite, $1"
  ( cd "$work/$1" && timeout 900 "$RIG/bin/client.test" -test.v -test.root -no-daemon -address "$address" -no-criu \
    -test.skip 'TestDaemon|TestMigration|TestRestartMonitor|TestShimDoesNotLeakPipes|TestShimOOMScore|TestBindLowPort' ) \
    >"$log" 2>&1 || true
  passed=$(grep -c '^--- PASS' "$log" || true)
  grep '^--- FAIL' "$log" || true
  echo "$1: $passed top-level tests passed, $(grep -c '^--- FAIL' "$log" || true) failed"
  [ -z "${LOGS:-}" ] || cp "$log" "$work/$1/log" "$LOGS/" 2>/dev/null || true
  [ "$passed" -ge "${AT_LEAST:-75}" ] || { echo "fewer than ${AT_LEAST:-75} passed; the end of the log:" >&2; tail -40 "$log" >&2; exit 1; }
}

for part in $only; do
  case $part in
    descriptors)
      start descriptors
      ( cd "$here/tests/go" && WINDLASS_ADDRESS=$address go test -count=1 ./descriptors/... )
      stop ;;
    ctr)
      start ctr
      ( cd "$here/tests/go" && WINDLASS_ADDRESS=$address go test -count=1 ./ctr/... )
      stop ;;
    client)
      start client
      client_suite client
      stop ;;
    runc)
      start runc 'version = 3
[plugins."io.containerd.shim.v1.manager"]
  oci_runtime = "runc"'
      client_suite runc
      stop ;;
    cri)
      start_for_pods cri
      ( cd "$here/tests/go" && WINDLASS_ADDRESS=$address go test -count=1 -timeout 180s -parallel 6 ./cri/... )
      stop ;;
    crictl)
      start_for_pods crictl
      ( cd "$here/tests/go" && WINDLASS_ADDRESS=$address go test -count=1 -timeout 240s -parallel 4 ./crictl/... )
      stop ;;
    critest)
      [ -x "$RIG/bin/critest" ] || missing "$RIG/bin/critest" "See the head of scripts/conformance.sh."
      start_for_pods critest
      critest
      stop ;;
    nri | scale) # these start, kill and end their daemon themselves
      for_pods
      package=$part
      [ "$part" = scale ] || package=nri/daemon
      ( cd "$here/tests/go" && DAEMON=$bin/windlassd CNI_BIN=$plugins CNI_CONF=$networks CERTS=$registries \
        go test -count=1 -timeout 1800s -v "./$package" | grep --line-buffered -v '^=== ' ) ;;
    kubelet) RIG=$RIG BIN=$bin "$here/scripts/kubelet.sh" ;;
    *) missing "part $part" "Parts: descriptors ctr client runc cri crictl critest nri kubelet scale." ;;
  esac
done
