package daemon

import (
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every event of a pod and its container arrives once, in order, with what it is about.
func TestLife(t *testing.T) {
	s := begin(t)
	p := newPlugin("10-all").join(s)
	pod := s.pod()
	p.expect(s, pod.id, event{"RunPodSandbox", pod.id, ""})
	told := p.pod
	s.Equal("pod", []any{told.Name, told.Namespace, told.Uid, told.Annotations["note"], told.Labels["of"]},
		[]any{pod.config.Metadata.Name, "nri", pod.config.Metadata.Uid, "a", pod.config.Metadata.Name})
	s.Equal("its network is there", slices.ContainsFunc(told.Linux.Namespaces, func(n *api.LinuxNamespace) bool {
		return n.Type == "network" && n.Path != ""
	}), true)
	_, err := runtime.UpdatePodSandboxResources(s.ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod.id, Resources: &cri.LinuxContainerResources{CpuShares: 100}})
	s.Ok(err)
	c := pod.create()
	s.Equal("container", []any{p.container.PodSandboxId, p.container.Args[0], p.container.Linux.Resources.Memory.Limit.GetValue(), slices.Contains(p.container.Env, "OLD=1")},
		[]any{pod.id, "sh", 64 << 20, true})
	_, err = runtime.StartContainer(s.ctx, &cri.StartContainerRequest{ContainerId: c.id})
	s.Ok(err)
	s.Equal("process", p.container.Pid > 0, true)
	c.update(&cri.LinuxContainerResources{CpuShares: 256})
	_, err = runtime.StopContainer(s.ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: 10})
	s.Ok(err)
	_, err = runtime.RemoveContainer(s.ctx, &cri.RemoveContainerRequest{ContainerId: c.id})
	s.Ok(err)
	_, err = runtime.StopPodSandbox(s.ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.id})
	s.Ok(err)
	_, err = runtime.RemovePodSandbox(s.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.id})
	s.Ok(err)
	want := []event{{"UpdatePodSandbox", pod.id, ""}, {"PostUpdatePodSandbox", pod.id, ""}}
	for _, name := range []string{"CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer",
		"UpdateContainer", "PostUpdateContainer", "StopContainer", "RemoveContainer"} {
		want = append(want, event{name, pod.id, c.id})
	}
	p.expect(s, pod.id, append(want, event{"StopPodSandbox", pod.id, ""}, event{"RemovePodSandbox", pod.id, ""})...)
}

// A pod that is removed with its container running: both are stopped first, for plugins too.
func TestRemovedAtOnce(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	c := pod.run()
	p := newPlugin("10-all").join(s)
	_, err := runtime.RemovePodSandbox(s.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.id})
	s.Ok(err)
	p.expect(s, pod.id, event{"StopContainer", pod.id, c.id}, event{"StopPodSandbox", pod.id, ""},
		event{"RemoveContainer", pod.id, c.id}, event{"RemovePodSandbox", pod.id, ""})
}

// One that joins sees what there is, and may change it.
func TestSynchronize(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	running, created := pod.run(), pod.create()
	p := newPlugin("10-late")
	p.onSync = func() []*api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId(running.id)
		u.SetLinuxCPUShares(333)
		return []*api.ContainerUpdate{u}
	}
	p.join(s)
	seen := map[string]string{}
	for _, c := range p.containers {
		seen[c.Id] = c.State.String() + " " + c.PodSandboxId
	}
	s.Equal("pod", slices.ContainsFunc(p.pods, func(q *api.PodSandbox) bool { return q.Id == pod.id && q.Name == pod.config.Metadata.Name }), true)
	s.Equal("one that runs", seen[running.id], "CONTAINER_RUNNING "+pod.id)
	s.Equal("one that does not", seen[created.id], "CONTAINER_CREATED "+pod.id)
	s.Eventually("the update is carried out", func() (bool, any) { shares := running.shares(); return shares == weight(333), shares })
	s.Equal("what was not named", running.memory(), 64<<20)
}

// What was installed takes part from the daemon's first pod on, and after the daemon has been killed and started anew it
// sees the pods that run.
func TestInstalled(t *testing.T) {
	s := begin(t)
	next := accept(s)
	first := next()
	s.Equal("first", first.Event.Name, "Synchronize")
	pod := s.pod()
	c := pod.run()
	for want := []string{"RunPodSandbox", "CreateContainer", "StartContainer"}; len(want) > 0; {
		if r := next(); r.Event.Pod == pod.id && r.Event.Name == want[0] {
			want = want[1:]
		}
	}
	external := newPlugin("10-external").join(s)
	daemon.Kill()
	select {
	case <-external.closed:
	case <-time.After(patience):
		s.Fatal("the connection outlives the daemon")
	}
	s.Ok(daemon.Start())
	again := accept(s)()
	s.Equal("first", again.Event.Name, "Synchronize")
	s.Equal("pods", slices.Contains(again.Pods, pod.id) && slices.Contains(again.Pods, base), true)
	s.Equal("containers", slices.Contains(again.Containers, c.id+" CONTAINER_RUNNING"), true)
	s.Equal("the container has not noticed", c.sh("echo here"), "here")
	newPlugin("10-external").join(s)
}

// accept takes the installed plugin's connection and answers what reads its next report.
func accept(s *story) func() report {
	s.Helper()
	conns := make(chan net.Conn, 1)
	go func() {
		if c, err := reports.Accept(); err == nil {
			conns <- c
		}
	}()
	select {
	case c := <-conns:
		s.Cleanup(func() { c.Close() })
		in := json.NewDecoder(c)
		return func() report {
			s.Helper()
			var r report
			s.Ok(errors.Join(c.SetReadDeadline(time.Now().Add(patience)), in.Decode(&r)))
			return r
		}
	case <-time.After(patience):
		s.Fatal("the installed plugin does not report")
		panic("unreachable")
	}
}

// A plugin that dies amid a request is forgotten, and the request goes on.
func TestDies(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	other := newPlugin("20-other").join(s)
	never := make(chan struct{})
	defer close(never)
	for _, when := range []string{"CreateContainer", "StartContainer", "StopContainer"} {
		dying := newPlugin("10-dies").join(s)
		dying.onEvent = func(e event) error {
			if e.Name == when {
				go dying.stub.Stop()
				<-never // answered
			}
			return nil
		}
		other.expect(s, pod.id)
		c := pod.run()
		s.Equal("state", c.state(), "CONTAINER_RUNNING")
		_, err := runtime.StopContainer(s.ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: 10})
		s.Ok(err)
		other.expect(s, pod.id, event{"CreateContainer", pod.id, c.id}, event{"PostCreateContainer", pod.id, c.id},
			event{"StartContainer", pod.id, c.id}, event{"PostStartContainer", pod.id, c.id}, event{"StopContainer", pod.id, c.id})
	}
}

// A plugin that hangs is dropped when its time is up: nothing waits longer, and what comes then does not wait.
func TestHangs(t *testing.T) {
	s := begin(t)
	for _, when := range []string{"RunPodSandbox", "CreateContainer", "StopPodSandbox"} {
		hung := newPlugin("10-hangs").join(s)
		release := make(chan struct{})
		hung.onEvent = func(e event) error {
			if e.Name == when {
				<-release
			}
			return nil
		}
		begun := time.Now()
		pod := s.pod()
		c := pod.run()
		_, err := runtime.StopContainer(s.ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: 1})
		s.Ok(err)
		_, err = runtime.StopPodSandbox(s.ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.id})
		s.Ok(err)
		if took := time.Since(begun); took < requestTimeout || took > 10*time.Second {
			s.Errorf("%s: it took %v", when, took)
		}
		select {
		case <-hung.closed:
		case <-time.After(patience):
			s.Errorf("%s: its connection goes on", when)
		}
		close(release)
	}
}

// What others ask meanwhile, and needs no plugin, is not held up by one that hangs.
func TestHangsBeside(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	c := pod.run()
	hung := newPlugin("10-hangs").join(s)
	release := make(chan struct{})
	defer close(release)
	amid := make(chan struct{}, 1)
	hung.onEvent = func(e event) error {
		if e.Name == "CreateContainer" {
			amid <- struct{}{}
			<-release
		}
		return nil
	}
	made := make(chan error, 1)
	go func() { _, err := pod.try(); made <- err }()
	select {
	case <-amid:
	case <-time.After(patience):
		s.Fatal("the plugin is not asked")
	}
	begun := time.Now()
	s.Equal("an exec", c.sh("echo here"), "here")
	s.Equal("a status", c.state(), "CONTAINER_RUNNING")
	s.Equal("a list", len(pod.containers()) >= 1, true)
	if took := time.Since(begun); took > requestTimeout*3/4 {
		s.Errorf("it took %v", took)
	}
	select {
	case err := <-made:
		s.Ok(err)
	case <-time.After(patience):
		s.Fatal("the container is not made")
	}
}

// A container whose plugin refuses is not made, nor left in part.
func TestRefuses(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	p := newPlugin("10-refuses").join(s)
	p.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error) {
		return nil, errors.New("not with me")
	}
	_, err := pod.try()
	if err == nil || !strings.Contains(err.Error(), "not with me") {
		s.Fatalf("error is %v", err)
	}
	s.Equal("containers", pod.containers(), []string{})
	p.leave()
	pod.run()
}
