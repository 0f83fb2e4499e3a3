package nri

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
)

var pod = object{"id": "p1", "name": "web", "namespace": "default", "annotations": object{"a": "1"},
	"resources": object{"cpu": object{"shares": 7}}}

func container(id string) object {
	return object{"id": id, "name": "main"}
}

func spec() object {
	return object{"ociVersion": "1.2.0",
		"process": object{"args": []string{"sh"}, "env": []string{"PATH=/bin", "OLD=1"}, "cwd": "/"},
		"mounts":  []object{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":   object{"resources": object{"memory": object{"limit": 1000}}}}
}

// Every event of a pod and a container arrives, once, in order, with what it is about.
func TestLife(t *testing.T) {
	h := start(t, nil)
	equal(t, "enabled", h.do("enabled", nil), false)
	p := newPlugin("10-all").join(t, h)
	equal(t, "enabled", h.do("enabled", nil), true)
	equal(t, "plugins", h.plugins(), "10-all")
	equal(t, "runtime", p.runtime, "containerd")

	c1 := object{"pod": pod, "container": container("c1")}
	h.do("run_pod", object{"pod": pod})
	p.expect(t, event{"RunPodSandbox", "p1", ""})
	if p.pod.Name != "web" || p.pod.Namespace != "default" || p.pod.Uid != "uid-p1" || p.pod.Annotations["a"] != "1" ||
		p.pod.Ips[0] != "10.0.0.1" || p.pod.Pid != 4711 || p.pod.Linux.Namespaces[0].Path != "/run/netns/x" ||
		p.pod.Linux.PodResources.Cpu.Shares.GetValue() != 7 {
		t.Errorf("pod is %v", p.pod)
	}
	h.do("update_pod", object{"pod": pod, "overhead": object{"cpu": object{"shares": 1}},
		"value": object{"memory": object{"limit": 2}}})
	h.do("post_update_pod", object{"pod": pod})
	p.expect(t, event{"UpdatePodSandbox", "p1", ""}, event{"PostUpdatePodSandbox", "p1", ""})
	if p.overhead.Cpu.Shares.GetValue() != 1 || p.resources.Memory.Limit.GetValue() != 2 {
		t.Errorf("overhead %v, resources %v", p.overhead, p.resources)
	}

	answer := h.do("create_container", object{"pod": pod, "container": container("c1"), "value": spec()})
	equal(t, "spec", at(t, answer, "spec"), spec())
	for _, op := range []string{"post_create_container", "start_container", "post_start_container",
		"update_container", "post_update_container", "stop_container", "stop_container", "remove_container"} {
		h.do(op, c1)
	}
	h.do("stop_pod", object{"pod": pod})
	h.do("stop_pod", object{"pod": pod})
	h.do("remove_pod", object{"pod": pod})
	var want []event
	for _, name := range []string{"CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer",
		"UpdateContainer", "PostUpdateContainer", "StopContainer", "RemoveContainer"} {
		want = append(want, event{name, "p1", "c1"})
	}
	p.expect(t, append(want, event{"StopPodSandbox", "p1", ""}, event{"RemovePodSandbox", "p1", ""})...)

	// One that is removed without a stop is stopped first.
	h.do("create_container", object{"pod": pod, "container": container("c2"), "value": spec()})
	h.do("remove_container", object{"pod": pod, "container": container("c2")})
	p.expect(t, event{"CreateContainer", "p1", "c2"}, event{"StopContainer", "p1", "c2"},
		event{"RemoveContainer", "p1", "c2"})

	h.stop()
	p.expect(t, event{Name: "Shutdown"})
	wait(t, p.closed, "the connection ends with the host")
	if _, err := os.Stat(h.socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// A plugin sees all that there is when it joins, in more than one message if it must, and may change it.
func TestSynchronize(t *testing.T) {
	h := start(t, nil)
	// Some 12 MB.
	h.do("seed", object{"pods": 30, "containers": 20, "length": 20000})
	p := newPlugin("10-late")
	p.onSync = func() []*api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId("pod3-4")
		u.SetLinuxCPUShares(55)
		return []*api.ContainerUpdate{u}
	}
	p.join(t, h)
	if len(p.pods) != 30 || len(p.containers) != 600 {
		t.Fatalf("%d pods, %d containers", len(p.pods), len(p.containers))
	}
	seen := map[string]bool{}
	for _, c := range p.containers {
		seen[c.Id] = true
		if len(c.Env[0]) != 20005 || c.State != api.ContainerState_CONTAINER_RUNNING || !strings.HasPrefix(c.Id, c.PodSandboxId) {
			t.Fatalf("container %s in %s: %v", c.Id, c.PodSandboxId, c.State)
		}
	}
	equal(t, "containers", len(seen), 600)
	equal(t, "asked", wait(t, h.asked, "the update"),
		object{"updates": []object{{"container": "pod3-4", "ignore": false, "resources": object{"cpu": object{"shares": 55}}}}})
	// What was there before is stopped and removed like any other.
	old := object{"pod": object{"id": "pod3"}, "container": container("pod3-4")}
	h.do("remove_container", old)
	h.do("stop_pod", old)
	p.expect(t, event{"StopContainer", "pod3", "pod3-4"}, event{"RemoveContainer", "pod3", "pod3-4"},
		event{"StopPodSandbox", "pod3", ""})
}

// What is asked unasked is carried out, and what fails is answered.
func TestUnsolicitedUpdates(t *testing.T) {
	h := start(t, nil)
	p := newPlugin("10-all").join(t, h)
	update := func(id string) *api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId(id)
		u.SetLinuxMemoryLimit(4096)
		return u
	}
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{update("fine"), update("broken")})
	must(t, err)
	if len(failed) != 1 || failed[0].ContainerId != "broken" || failed[0].Linux.Resources.Memory.Limit.GetValue() != 4096 {
		t.Errorf("failed: %v", failed)
	}
	asked := wait(t, h.asked, "the updates")
	equal(t, "container", at(t, asked, "updates/0/container"), "fine")
	equal(t, "limit", at(t, asked, "updates/0/resources/memory/limit"), 4096)
	// Also amid an event of its own.
	p.onEvent = func(string) error {
		_, err := p.stub.UpdateContainers([]*api.ContainerUpdate{update("amid")})
		return err
	}
	h.do("run_pod", object{"pod": pod})
	equal(t, "container", at(t, wait(t, h.asked, "the update"), "updates/0/container"), "amid")
}

// Installed plugins are started with what they need before the host is ready, and end with it.
func TestInstalled(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"plugins", "conf.d"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	self, err := os.Executable()
	must(t, err)
	report := filepath.Join(dir, "report")
	l, err := net.Listen("unix", report)
	must(t, err)
	defer l.Close()
	must(t, os.WriteFile(filepath.Join(dir, "conf.d", "first.conf"), []byte(report), 0o600))
	for _, name := range []string{"20-first", "10-first"} {
		must(t, os.Symlink(self, filepath.Join(dir, "plugins", name)))
	}
	// These do not come up, and hurt nobody.
	must(t, os.WriteFile(filepath.Join(dir, "plugins", "05-ends"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "plugins", "06-hangs"), []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "plugins", "07-no-program"), []byte("\x7fELF"), 0o755))
	h := startIn(t, dir, nil)
	equal(t, "plugins", h.plugins(), "10-first 20-first")
	reports := map[string]*bufio.Scanner{}
	for range 2 {
		c, err := l.Accept()
		must(t, err)
		defer c.Close()
		lines := bufio.NewScanner(c)
		first := next(t, lines)
		index := first["index"].(string)
		equal(t, "environment", first["environment"], []string{"NRI_PLUGIN_IDX=" + index, "NRI_PLUGIN_NAME=first",
			"NRI_PLUGIN_SOCKET=3"})
		reports[index] = lines
	}
	h.do("run_pod", object{"pod": pod})
	h.stop()
	for _, index := range []string{"10", "20"} {
		for _, want := range []string{"Synchronize", "RunPodSandbox", "Shutdown"} {
			equal(t, index, next(t, reports[index])["event"], want)
		}
		if reports[index].Scan() {
			t.Errorf("%s goes on: %s", index, reports[index].Text())
		}
	}
	// It was killed with the others: nothing of it is left to be waited for.
	equal(t, "processes", processes(t, dir), []string{})
}

func next(t *testing.T, lines *bufio.Scanner) object {
	t.Helper()
	line := make(chan object, 1)
	go func() {
		var o object
		if lines.Scan() {
			json.Unmarshal(lines.Bytes(), &o)
		}
		line <- o
	}()
	return wait(t, line, "a report")
}

// processes are those whose program or arguments name dir.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	found := []string{}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, path := range all {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), filepath.Join(dir, "plugins")) {
			found = append(found, fmt.Sprintf("%q", text))
		}
	}
	return found
}
