package kubelet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type container struct {
	pod, name, id string
	pid           int
}

// containers that run, with the processes that the runtime tells.
func (n *node) containers(t *testing.T) []container {
	t.Helper()
	running := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	list, err := n.runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{State: running}})
	check(t, err)
	var containers []container
	for _, c := range list.Containers {
		status, err := n.runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: c.Id, Verbose: true})
		check(t, err)
		var info struct{ Pid int }
		check(t, json.Unmarshal([]byte(status.Info["info"]), &info))
		pod := c.Labels["io.kubernetes.pod.name"]
		containers = append(containers, container{
			pod: pod[:max(0, len(pod)-len("-node1"))], name: c.Labels["io.kubernetes.container.name"], id: c.Id, pid: info.Pid,
		})
	}
	return containers
}

// processes tells containers and their processes, with the times these began: numbers can be given anew.
func (n *node) processes(t *testing.T) map[string]string {
	t.Helper()
	processes := map[string]string{}
	for _, c := range n.containers(t) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.pid))
		check(t, err)
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		processes[c.pod+"/"+c.name] = fmt.Sprintf("%s %d %s", c.id, c.pid, fields[19])
	}
	return processes
}

func owner(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

func (n *node) memory() string { return filepath.Join(n.work, "processes.json") }

// TestRemember writes down what runs; TestSame says later that it still does.
func TestRemember(t *testing.T) {
	n := open(t)
	text, err := json.Marshal(n.processes(t))
	check(t, err)
	check(t, os.WriteFile(n.memory(), text, 0o600))
}

func (n *node) remembered(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(n.memory())
	check(t, err)
	var processes map[string]string
	check(t, json.Unmarshal(text, &processes))
	return processes
}

// TestSame: the kubelet or windlass was started anew. No container may have noticed, and all that one does with
// containers works on.
func TestSame(t *testing.T) {
	n := open(t)
	for _, pod := range []string{"start", "limits", "share", "user", "resize", "streams"} {
		n.until(t, pod, ready())
	}
	n.until(t, "probes", ready("unready"))
	// What the kubelet might do to its pods it does when it has looked at the runtime anew.
	last := n.ticked(t)
	n.looks(t, 8)
	if now := n.ticked(t); now < last+20 {
		t.Errorf("a log went from line %d to %d in 8 seconds", last, now)
	}
	before, now := n.remembered(t), n.processes(t)
	if len(before) < 10 || len(now) != len(before) {
		t.Errorf("%d containers ran, now %d", len(before), len(now))
	}
	for name, process := range before {
		equal(t, name, now[name], process)
	}
	equal(t, "exec", n.run(t, "streams/web", "cat", "/www/index.html"), "windlass\n")
	for name := range transports {
		n.forwards(t, name)
	}
}

var relists = regexp.MustCompile(`(?m)^kubelet_pleg_relist_duration_seconds_count (\d+)$`)

// looks waits until the kubelet has looked at the runtime so many times.
func (n *node) looks(t *testing.T, times int) {
	t.Helper()
	count := func() int {
		body, err := n.get(t.Context(), "/metrics")
		check(t, err)
		defer body.Close()
		text, err := io.ReadAll(body)
		check(t, err)
		match := relists.FindSubmatch(text)
		if match == nil {
			return 0
		}
		number, err := strconv.Atoi(string(match[1]))
		check(t, err)
		return number
	}
	first := count()
	for end := time.Now().Add(patience); count() < first+times; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the kubelet does not look at the runtime any more")
		}
	}
}

// TestAgain: the machine was started anew. Each pod is there again, with other processes.
func TestAgain(t *testing.T) {
	n := open(t)
	before := n.remembered(t)
	for _, pod := range []string{"start", "limits", "share", "user", "resize", "streams"} {
		n.until(t, pod, func(p *core.Pod) string {
			for _, c := range n.containers(t) {
				if c.pod == pod && before[pod+"/"+c.name] != "" && before[pod+"/"+c.name][:64] == c.id {
					return c.name + " is the one from before"
				}
			}
			return ready()(p)
		})
	}
	n.until(t, "probes", ready("unready"))
	equal(t, "exec", n.run(t, "streams/web", "cat", "/www/index.html"), "windlass\n")
	if now := n.processes(t); len(now) != len(before) {
		t.Errorf("%d containers ran, now %d", len(before), len(now))
	}
}
