package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"windlass.dev/tests/go/check"
)

var counter atomic.Int64

var ownProcesses = &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}

// story is one test.
type story struct {
	check.T
	ctx context.Context
	dir string
}

func begin(t *testing.T) *story {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return &story{check.T{T: t, Patience: patience}, ctx, t.TempDir()}
}

func podConfig(dir, name string, annotations map[string]string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "nri"},
		LogDirectory: dir,
		Labels:       map[string]string{"of": name},
		Annotations:  annotations,
		Linux:        &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ownProcesses}},
	}
}

// pod is a pod; it goes with the test.
type pod struct {
	*story
	id     string
	config *cri.PodSandboxConfig
}

func (s *story) pod() *pod {
	s.Helper()
	config := podConfig(s.dir, fmt.Sprintf("pod-%d", counter.Add(1)), map[string]string{"note": "a"})
	answer, err := runtime.RunPodSandbox(s.ctx, &cri.RunPodSandboxRequest{Config: config})
	s.Ok(err)
	p := &pod{s, answer.PodSandboxId, config}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, stop := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		_, remove := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		if stop != nil || remove != nil {
			s.Errorf("pod %s stays: %v, %v", p.id, stop, remove)
		}
	})
	return p
}

// container is one of a pod's.
type container struct {
	*pod
	id string
}

func (p *pod) try() (*container, error) {
	name := fmt.Sprintf("c%d", counter.Add(1))
	answer, err := runtime.CreateContainer(p.ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: image},
		Command:  []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"},
		Envs:     []*cri.KeyValue{{Key: "OLD", Value: "1"}},
		LogPath:  name + ".log",
		Linux:    &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: ownProcesses}, Resources: &cri.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}},
	}})
	return &container{p, answer.GetContainerId()}, err
}

func (p *pod) create() *container {
	p.Helper()
	c, err := p.try()
	p.Ok(err)
	return c
}

func (p *pod) run() *container {
	p.Helper()
	c := p.create()
	_, err := runtime.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: c.id})
	c.Ok(err)
	return c
}

// sh runs a script inside and answers its output without the last newline.
func (c *container) sh(script string) string {
	c.Helper()
	answer, err := runtime.ExecSync(c.ctx, &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", script}, Timeout: 20})
	c.Ok(err)
	if answer.ExitCode != 0 {
		c.Fatalf("%s: exit code %d: %s%s", script, answer.ExitCode, answer.Stdout, answer.Stderr)
	}
	return strings.TrimSuffix(string(answer.Stdout), "\n")
}

// shares and memory are the container's limits as its cgroup has them; cgroup v2 knows weights instead of shares.
func (c *container) shares() string {
	c.Helper()
	return c.sh("cat /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/cpu.weight")
}

func (c *container) memory() string {
	c.Helper()
	return c.sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
}

// weight is what shares say in this machine's cgroups.
func weight(shares uint64) string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return fmt.Sprint(1 + (shares-2)*9999/262142)
	}
	return fmt.Sprint(shares)
}

func (c *container) info() map[string]any {
	c.Helper()
	answer, err := runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
	c.Ok(err)
	var info map[string]any
	c.Ok(json.Unmarshal([]byte(answer.Info["info"]), &info))
	return info
}

func (c *container) state() string {
	c.Helper()
	answer, err := runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
	c.Ok(err)
	return answer.Status.State.String()
}

// update is the kubelet's.
func (c *container) update(r *cri.LinuxContainerResources) {
	c.Helper()
	_, err := runtime.UpdateContainerResources(c.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r})
	c.Ok(err)
}

// containers are the ids of a pod's.
func (p *pod) containers() []string {
	p.Helper()
	list, err := runtime.ListContainers(p.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: p.id}})
	p.Ok(err)
	ids := []string{}
	for _, c := range list.Containers {
		ids = append(ids, c.Id)
	}
	return ids
}

func (s *story) file(name, text string) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	s.Ok(os.WriteFile(path, []byte(text), 0o644))
	return path
}
