package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPods waits for each pod, and looks at it from within.
func TestPods(t *testing.T) {
	t.Parallel()
	n := open(t)
	for name, test := range map[string]func(*testing.T, *node){
		"start": starts, "probes": probes, "limits": limits, "oom": oom, "volumes": volumes, "share": shares, "user": user, "streams": streams,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, n)
		})
	}
}

func starts(t *testing.T, n *node) {
	pod := n.until(t, "start", ready())
	equal(t, "order", n.run(t, "start/main", "cat", "/data/order"), "first\nside\nsecond\nmain\n")
	for _, name := range []string{"first", "second"} {
		if s := status(t, pod, name); s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" {
			t.Errorf("%s: %s", name, state(s.State))
		}
	}
	if side := status(t, pod, "side"); side.State.Running == nil || side.Started == nil || !*side.Started {
		t.Errorf("side: %s", state(side.State))
	}
}

func probes(t *testing.T, n *node) {
	pod := n.until(t, "probes", func(pod *core.Pod) string {
		if text := ready("unready", "sick")(pod); text != "" {
			return text
		}
		for _, c := range pod.Status.ContainerStatuses {
			if c.Name == "sick" && (c.RestartCount != 1 || c.State.Running == nil) {
				return fmt.Sprintf("sick: %d restarts, %s", c.RestartCount, state(c.State))
			}
		}
		return ""
	})
	if status(t, pod, "unready").Ready || status(t, pod, "unready").State.Running == nil {
		t.Error("a container is ready, though its probe fails")
	}
	if n := status(t, pod, "http").RestartCount; n != 0 {
		t.Errorf("a container whose probes succeed was restarted %d times", n)
	}
}

func limits(t *testing.T, n *node) {
	n.bounded(t, n.until(t, "limits", ready("greedy")), "limits", 200, 64<<20)
	n.bounded(t, n.until(t, "resize", ready()), "resize", 100, 32<<20)
}

// bounded compares what the status and the cgroup say of a container's limits.
func (n *node) bounded(t *testing.T, pod *core.Pod, name string, cpu, memory int64) {
	t.Helper()
	// Of cgroup v1, or of v2.
	text := n.run(t, name+"/bounded", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
	equal(t, "memory", text, fmt.Sprintln(memory))
	text = n.run(t, name+"/bounded", "sh", "-c", "cd /sys/fs/cgroup/cpu 2>/dev/null && echo $(cat cpu.cfs_quota_us) $(cat cpu.cfs_period_us) || cat /sys/fs/cgroup/cpu.max")
	equal(t, "cpu", text, fmt.Sprintln(cpu*100, 100000))
	if r := status(t, pod, "bounded").Resources; r == nil || r.Limits.Memory().Value() != memory || r.Limits.Cpu().MilliValue() != cpu {
		t.Errorf("resources in the status: %+v", r)
	}
}

// TestResized: the manifest of `resize` allows more now.
func TestResized(t *testing.T) {
	n := open(t)
	pod := n.until(t, "resize", func(pod *core.Pod) string {
		if r := pod.Status.ContainerStatuses[0].Resources; r == nil || r.Limits.Cpu().MilliValue() != 300 || r.Limits.Memory().Value() != 48<<20 {
			return fmt.Sprintf("resources in the status: %+v; conditions: %+v", r, pod.Status.Conditions)
		}
		return ready()(pod)
	})
	n.bounded(t, pod, "resize", 300, 48<<20)
	before := n.remembered(t)["resize/bounded"]
	if before == "" {
		t.Fatal("nothing is remembered of it")
	}
	equal(t, "the process", n.processes(t)["resize/bounded"], before)
}

func oom(t *testing.T, n *node) {
	pod := n.until(t, "limits", func(pod *core.Pod) string {
		for _, c := range pod.Status.ContainerStatuses {
			if c.Name == "greedy" && (c.RestartCount == 0 || c.State.Running == nil) {
				return fmt.Sprintf("greedy: %d restarts, %s", c.RestartCount, state(c.State))
			}
		}
		return ready("bounded")(pod)
	})
	greedy := status(t, pod, "greedy")
	last := greedy.LastTerminationState.Terminated
	if greedy.RestartCount != 1 || last == nil || last.Reason != "OOMKilled" || last.ExitCode != 137 {
		t.Errorf("%d restarts, last %s", greedy.RestartCount, state(greedy.LastTerminationState))
	}
}

func volumes(t *testing.T, n *node) {
	pod := n.until(t, "limits", ready("greedy"))
	check(t, os.WriteFile(filepath.Join(n.work, "shared", "outside"), []byte("from outside\n"), 0o644))
	equal(t, "host path", n.run(t, "limits/bounded", "cat", "/shared/outside"), "from outside\n")
	if text := n.run(t, "limits/bounded", "sh", "-c", "echo x > /shared/no 2>&1 || echo refused"); !strings.Contains(text, "refused") {
		t.Errorf("a read-only mount could be written: %q", text)
	}
	n.run(t, "limits/bounded", "sh", "-c", "echo inside > /part/file")
	text, err := os.ReadFile(filepath.Join(n.volumes(pod), "kubernetes.io~empty-dir/data/a/b/file"))
	check(t, err)
	equal(t, "sub path", string(text), "inside\n")
	if text := n.run(t, "limits/bounded", "grep", " /memory ", "/proc/mounts"); !strings.HasPrefix(text, "tmpfs /memory ") {
		t.Errorf("an empty directory in memory is %q", text)
	}
	equal(t, "downward API", n.run(t, "limits/bounded", "cat", "/about/labels"), "colour=\"blue\"")
	equal(t, "environment", n.run(t, "limits/bounded", "sh", "-c", "echo $NODE"), "node1\n")
}

// volumes is where the kubelet keeps a pod's.
func (n *node) volumes(pod *core.Pod) string {
	uid := pod.Annotations["kubernetes.io/config.hash"]
	return filepath.Join(n.work, "root", "pods", uid, "volumes")
}

func shares(t *testing.T, n *node) {
	n.until(t, "share", ready())
	seen := n.run(t, "share/seeing", "sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done")
	for _, command := range []string{"/pause", "sleep 86401", "sleep 86402"} {
		if !strings.Contains(seen, command) {
			t.Errorf("%s is not among the processes: %q", command, seen)
		}
	}
	if first := n.run(t, "share/seen", "cat", "/proc/1/cmdline"); !strings.HasPrefix(first, "/pause") {
		t.Errorf("process 1 is %q", first)
	}
}

func user(t *testing.T, n *node) {
	pod := n.until(t, "user", ready())
	mapping := strings.Fields(n.run(t, "user/mapped", "cat", "/proc/self/uid_map"))
	if len(mapping) != 3 || mapping[0] != "0" || mapping[1] == "0" || mapping[2] != "65536" {
		t.Fatalf("users are mapped as %v", mapping)
	}
	equal(t, "user", n.run(t, "user/mapped", "id", "-u"), "0\n")
	equal(t, "owner within", n.run(t, "user/mapped", "stat", "-c", "%u", "/data/mine"), "0\n")
	// The volume is mapped with the pod: outside, its files are root's.
	info, err := os.Stat(filepath.Join(n.volumes(pod), "kubernetes.io~empty-dir/data/mine"))
	check(t, err)
	equal(t, "owner outside", fmt.Sprint(owner(info)), "0")
}

func streams(t *testing.T, n *node) {
	n.until(t, "streams", ready())
	for name := range transports {
		t.Run(name, func(t *testing.T) {
			n.executes(t, name)
			n.attaches(t, name)
			n.forwards(t, name)
		})
	}
}

// TestStopped: the manifest of `gone` was removed.
func TestStopped(t *testing.T) {
	n := open(t)
	n.nothing(t, "gone")
	equal(t, "the polite process", n.shared(t, "polite"), "polite\n")
}

// TestEnded: all manifests were removed.
func TestEnded(t *testing.T) {
	n := open(t)
	n.nothing(t, "start", "probes", "limits", "share", "user", "resize", "streams", "logs")
	n.stopped(t)
	equal(t, "the end of a pod with a sidecar", n.shared(t, "ended"), "hook\nmain\nside\n")
}

// nothing waits until no container of these pods runs.
func (n *node) nothing(t *testing.T, pods ...string) {
	t.Helper()
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		left = nil
		for _, c := range n.containers(t) {
			if slices.Contains(pods, c.pod) {
				left = append(left, c.pod+"/"+c.name)
			}
		}
		if left == nil {
			return
		}
	}
	t.Fatalf("still there: %v", left)
}

// stopped waits until no pod is ready: all have given back their networks.
func (n *node) stopped(t *testing.T) {
	t.Helper()
	ready := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	var left []*cri.PodSandbox
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		list, err := n.runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{State: ready}})
		check(t, err)
		if left = list.Items; len(left) == 0 {
			return
		}
	}
	t.Fatalf("still ready: %v", left)
}

// run executes a command through the kubelet's API, and returns what it wrote.
func (n *node) run(t *testing.T, where string, command ...string) string {
	t.Helper()
	var out, errs strings.Builder
	if err := n.exec(context.Background(), "WebSocket", where, nil, &out, &errs, command...); err != nil {
		t.Fatalf("%s: %q: %v: %s", where, command, err, errs.String())
	}
	return out.String()
}
