#!/usr/bin/env bash
# A real kubelet, without an API server, on windlassd: static pods of every kind (tests/go/kubelet/pods), looked at
# through the kubelet's own API and from within, while one after the other is stopped, started anew and killed.
#
#   RIG       directory whose bin holds kubelet (k8s.io/kubernetes/cmd/kubelet, 1.36)
#   BIN       where windlassd, windlass and containerd-shim-runc-v2 are (default target/release)
#   DISK      where the daemon's and the kubelet's files are to be (default $TMPDIR); its file system must know
#             id-mapped mounts, or the pod with a user namespace fails
#   CRI       a runtime's socket: that runtime is looked at instead, and not started anew
#   OCI_RUNTIME  what runs the containers: runc, crun, … (default: the shim itself)
#   IMAGE     with a shell and busybox's tools (default registry.k8s.io/e2e-test-images/busybox:1.29-4)
#   CNI_BIN, CNI_CONF, CERTS  as for scripts/conformance.sh
#   PORT      of the kubelet's API (default 10250; its health on the port before the one before)
#   STEPS     those to take (default: pods stop resize kubelet daemon reboot end)
#   LOGS      a directory that gets the logs
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$(realpath "${BIN:-$here/target/release}")
port=${PORT:-10250}
steps=${STEPS:-pods stop resize kubelet daemon reboot end}

missing() { echo "kubelet: $1 is missing. $2" >&2; exit 1; }
[ "$(id -u)" = 0 ] || missing "root" "Containers need it."
command -v go >/dev/null || missing "go" "What looks at the pods is a Go program."
[ -n "${RIG:-}" ] || missing "RIG" "Set it to the directory whose bin holds a kubelet."
[ -x "$RIG/bin/kubelet" ] || missing "$RIG/bin/kubelet" "Build k8s.io/kubernetes/cmd/kubelet 1.36."
plugins=${CNI_BIN:-/usr/lib/cni} networks=${CNI_CONF:-$RIG/cni} registries=${CERTS:-$RIG/certs.d}
for b in windlassd windlass containerd-shim-runc-v2; do [ -x "$bin/$b" ] || missing "$bin/$b" "make build, or set BIN."; done
[ -x "$plugins/bridge" ] || missing "$plugins/bridge" "Install CNI's plugins or set CNI_BIN."
ls "$networks"/*.conf* >/dev/null 2>&1 || missing "a configuration of CNI in $networks" "Set CNI_CONF."
for p in "$port" $((port - 2)); do
  ! (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || missing "port $p" "It is taken; set PORT."
done

work=$(mktemp -d -p "${DISK:-${TMPDIR:-/tmp}}" windlass-kubelet.XXXXXX)
run=$(mktemp -d -t windlass-kubelet.XXXXXX)
group=${work##*/} daemon= kubelet=
chmod 0711 "$work" "$run"
mkdir "$work"/{bin,manifests,shared}
address=${CRI:-$run/windlass.sock}

end() { # end PID [SIGNAL]
  [ -n "$1" ] || return 0
  kill "-${2:-TERM}" "$1" 2>/dev/null || return 0
  wait "$1" 2>/dev/null || true
}
mounts() { grep -o " \($work\|$run\)/[^ ]*" /proc/self/mounts | sort -r | while read -r m; do umount -l "$m" 2>/dev/null || true; done; }
processes() { # of the pods and their shims
  grep -lzx -- "$run/windlass.sock" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 || true
  find /sys/fs/cgroup -path "*/$group/*" -name cgroup.procs -exec cat {} + 2>/dev/null || true
}
finish() {
  trap - EXIT
  set +e
  end "$kubelet"
  if [ -n "$daemon" ] && [ -x "$RIG/bin/crictl" ]; then # pods take their networks along
    timeout 60 "$RIG/bin/crictl" -r "unix://$address" rmp --force --all >/dev/null 2>&1
  fi
  end "$daemon"
  processes | sort -u | while read -r pid; do kill -KILL "$pid" 2>/dev/null; done
  mounts
  [ -z "${LOGS:-}" ] || cp "$run"/*.log "$LOGS/"
  find /sys/fs/cgroup -depth -path "*/$group*" -type d -exec rmdir {} + 2>/dev/null
  if [ -n "${KEEP:-}" ]; then echo "kept: $work $run"; else rm -rf "$work" "$run"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

# Before registries get a certificate authority of their own: the module registry may have another.
( cd "$here/tests/go" && go test -c -o "$work/bin/kubelet.test" ./kubelet && CGO_ENABLED=0 go build -o "$work/bin/health" ./kubelet/health )
[ ! -f "$RIG/ca-bundle.pem" ] || export SSL_CERT_FILE=$RIG/ca-bundle.pem
export PATH=$bin:$RIG/bin:$PATH

start_daemon() {
  [ -z "${CRI:-}" ] || return 0
  cat >"$run/config.toml" <<T
version = 3
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["$plugins"]
  conf_dir = "$networks"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
T
  [ ! -d "$registries" ] || cat >>"$run/config.toml" <<T
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "$registries"
T
  [ -z "${OCI_RUNTIME:-}" ] || cat >>"$run/config.toml" <<T
[plugins."io.containerd.shim.v1.manager"]
  oci_runtime = "$OCI_RUNTIME"
T
  "$bin/windlassd" --config "$run/config.toml" --root "$work/windlass" --state "$run/state" --address "$address" 2>>"$run/windlassd.log" &
  daemon=$!
  "$bin/windlass" --address "$address" version --wait 20s >/dev/null || { tail -20 "$run/windlassd.log" >&2; exit 1; }
}

start_kubelet() {
  # A cgroup of its own, in every hierarchy that there is.
  local at
  while read -r _ at kind _; do
    case $kind in cgroup | cgroup2) mkdir -p "$at/$group" ;; *) continue ;; esac
    for f in cpuset.cpus cpuset.mems; do [ ! -f "$at/$f" ] || cat "$at/$f" >"$at/$group/$f" 2>/dev/null || true; done
  done </proc/self/mounts
  cat >"$work/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
port: $port
healthzPort: $((port - 2))
staticPodPath: $work/manifests
fileCheckFrequency: 1s
syncFrequency: 5s
podLogsDir: $work/logs
containerLogMaxSize: 100Ki
containerLogMaxFiles: 3
containerLogMonitorInterval: 3s
containerRuntimeEndpoint: unix://$address
cgroupDriver: cgroupfs
cgroupRoot: /$group
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {}
imageGCHighThresholdPercent: 100
Y
  "$RIG/bin/kubelet" --config "$work/kubelet.yaml" --root-dir "$work/root" --cert-dir "$work/pki" \
    --hostname-override node1 -v "${VERBOSE:-1}" >>"$run/kubelet.log" 2>&1 &
  kubelet=$!
  local _
  for _ in $(seq 600); do
    ! curl -fs "http://127.0.0.1:$((port - 2))/healthz" >/dev/null || return 0
    kill -0 "$kubelet" 2>/dev/null || break
    sleep 0.1
  done
  tail -20 "$run/kubelet.log" >&2
  exit 1
}

pods() { # pods NAME...: their manifests become the kubelet's
  local name
  for name in "$@"; do
    sed "s|@WORK@|$work|; s|@SHARED@|$work/shared|; s|@IMAGE@|${IMAGE:-registry.k8s.io/e2e-test-images/busybox:1.29-4}|; s|@CPU@|${CPU:-100m}|; s|@MEMORY@|${MEMORY:-32Mi}|" \
      "$here/tests/go/kubelet/pods/$name.yaml" >"$work/$name.yaml"
    mv "$work/$name.yaml" "$work/manifests/"
  done
}

look() { # look TESTS: what the Go program says of the pods
  KUBELET_URL=https://127.0.0.1:$port KUBELET_WORK=$work WINDLASS_ADDRESS=$address \
    "$work/bin/kubelet.test" -test.v -test.timeout 300s -test.parallel 12 -test.run "^($1)\$"
}

nothing_left() { # a pod is not ready any more some moments before its network is taken down
  local end=$((SECONDS + 30))
  while grep -q " $run/" /proc/self/mounts; do
    [ "$SECONDS" -lt "$end" ] || { grep " $run/" /proc/self/mounts >&2; echo "kubelet: these mounts are left" >&2; exit 1; }
    sleep 0.1
  done
}

start_daemon
start_kubelet
all="start probes limits share user resize logs streams"
for step in $steps; do
  echo "--- $step"
  begun=$SECONDS
  case $step in
    pods) # every pod comes up, and is what its manifest says
      pods $all gone
      look 'TestPods|TestLogs' ;;
    stop) # a manifest that goes takes its pod along
      rm "$work/manifests/gone.yaml"
      look TestStopped
      look TestRemember ;;
    resize) # in place
      CPU=300m MEMORY=48Mi pods resize
      look TestResized ;;
    kubelet)
      end "$kubelet"
      start_kubelet
      look TestSame ;;
    daemon) # dies with its pods running, and is started anew
      [ -z "${CRI:-}" ] || continue
      end "$daemon" KILL
      start_daemon
      look TestSame ;;
    reboot) # no process, no mount and no file of the runtime's state is left
      [ -z "${CRI:-}" ] || continue
      end "$kubelet" KILL
      end "$daemon" KILL
      processes | sort -u | while read -r pid; do kill -KILL "$pid" 2>/dev/null || true; done
      mounts
      rm -rf "$run/state" "$run"/windlass.sock*
      start_daemon
      start_kubelet
      look TestAgain ;;
    end) # all pods stop in order
      rm "$work"/manifests/*
      look TestEnded
      nothing_left ;;
    *) missing "step $step" "Steps: pods stop resize kubelet daemon reboot end." ;;
  esac
  echo "$step: $((SECONDS - begun)) s"
done
