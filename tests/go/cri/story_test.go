package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"windlass.dev/tests/go/check"
)

var counter atomic.Int64

// story is one test: its deadline, its folder, and the label that everything it makes carries.
type story struct {
	check.T
	ctx  context.Context
	dir  string
	name string
}

func begin(t *testing.T) *story {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	dir := t.TempDir()
	// Pods with a user namespace reach what is below as users of their own.
	for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := &story{T: check.T{T: t, Patience: patience}, ctx: ctx, dir: dir, name: fmt.Sprintf("cri-%s-%d", run, counter.Add(1))}
	// After the pods, which are made later.
	t.Cleanup(s.removeCgroups)
	return s
}

// removeCgroups removes the groups that the kubelet would have made for pods, and complains of what is left in them.
func (s *story) removeCgroups() {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		for _, pattern := range []string{root + s.parent() + "/*", root + s.parent()} {
			groups, _ := filepath.Glob(pattern)
			for _, group := range groups {
				if info, err := os.Stat(group); err != nil || !info.IsDir() {
					continue
				}
				if err := syscall.Rmdir(group); err != nil && err != syscall.ENOENT {
					s.Errorf("something is left in %s: %v", group, err)
				}
			}
		}
	}
}

// parent is the group of all pods of a story.
func (s *story) parent() string { return "/" + s.name }

func (s *story) labels() map[string]string { return map[string]string{"story": s.name} }

func (s *story) truth(holds bool, format string, args ...any) {
	s.Helper()
	if !holds {
		s.Fatalf(format, args...)
	}
}

// refused expects an error of one of the classes; the peer wraps some of its own in no class at all.
func (s *story) refused(what string, err error, wanted ...codes.Code) {
	s.Helper()
	code := status.Code(err)
	if err == nil || !slices.Contains(wanted, code) && !(peer && code == codes.Unknown) {
		s.Errorf("%s: got %v (%v), want %v", what, code, err, wanted)
	}
}

// info decodes one document of a verbose answer.
func (s *story) info(info map[string]string, key string) map[string]any {
	s.Helper()
	text, there := info[key]
	if !there {
		s.Fatalf("the verbose answer has no %q: %v", key, info)
	}
	var value map[string]any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		s.Fatalf("%s: %v in %s", key, err, text)
	}
	return value
}

// dig follows keys into a decoded document.
func dig(value any, keys ...string) any {
	for _, key := range keys {
		table, is := value.(map[string]any)
		if !is {
			return nil
		}
		value = table[key]
	}
	return value
}

// pod is a running pod; it goes with the test.
type pod struct {
	*story
	id     string
	config *cri.PodSandboxConfig
}

func (s *story) podConfig(changes ...func(*cri.PodSandboxConfig)) *cri.PodSandboxConfig {
	name := fmt.Sprintf("pod-%d", counter.Add(1))
	logs := filepath.Join(s.dir, name)
	s.Ok(os.MkdirAll(logs, 0o755))
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: s.name + "-" + name, Namespace: s.name, Attempt: 1},
		Hostname:     name,
		LogDirectory: logs,
		Labels:       s.labels(),
		Annotations:  map[string]string{"example.com/note": "a note with spaces"},
		DnsConfig:    &cri.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"ndots:3"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    s.parent() + "/" + name,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	for _, change := range changes {
		change(config)
	}
	return config
}

func (s *story) pod(changes ...func(*cri.PodSandboxConfig)) *pod {
	s.Helper()
	config := s.podConfig(changes...)
	answer, err := runtime.RunPodSandbox(s.ctx, &cri.RunPodSandboxRequest{Config: config})
	s.Ok(err)
	s.goes(answer.PodSandboxId)
	return &pod{s, answer.PodSandboxId, config}
}

// goes removes a pod with the test, failed or not.
func (s *story) goes(id string) {
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			s.Errorf("stop pod %s: %v", id, err)
		}
		if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			s.Errorf("remove pod %s: %v", id, err)
		}
	})
}

func (p *pod) status() *cri.PodSandboxStatusResponse {
	p.Helper()
	answer, err := runtime.PodSandboxStatus(p.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	p.Ok(err)
	return answer
}

func (p *pod) stop() {
	p.Helper()
	_, err := runtime.StopPodSandbox(p.ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
	p.Ok(err)
}

// container is one of a pod's.
type container struct {
	*pod
	id     string
	config *cri.ContainerConfig
}

func (p *pod) containerConfig(script string, changes ...func(*cri.ContainerConfig)) *cri.ContainerConfig {
	name := fmt.Sprintf("c%d", counter.Add(1))
	config := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: name, Attempt: 2},
		Image:       &cri.ImageSpec{Image: imageRef, UserSpecifiedImage: image},
		Command:     []string{"sh", "-c"},
		Args:        []string{script},
		Labels:      p.labels(),
		Annotations: map[string]string{"example.com/note": "of a container"},
		LogPath:     name + "/2.log",
		Linux: &cri.LinuxContainerConfig{
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
			Resources:       &cri.LinuxContainerResources{},
		},
	}
	for _, change := range changes {
		change(config)
	}
	p.Ok(os.MkdirAll(filepath.Join(p.config.LogDirectory, name), 0o755))
	return config
}

func (p *pod) create(script string, changes ...func(*cri.ContainerConfig)) *container {
	p.Helper()
	config := p.containerConfig(script, changes...)
	answer, err := runtime.CreateContainer(p.ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	p.Ok(err)
	return &container{p, answer.ContainerId, config}
}

// idle is a script that lives until it is told to end.
const idle = "trap 'exit 0' TERM; sleep 1000 & wait"

func (p *pod) run(script string, changes ...func(*cri.ContainerConfig)) *container {
	p.Helper()
	c := p.create(script, changes...)
	c.start()
	return c
}

func (c *container) start() {
	c.Helper()
	_, err := runtime.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: c.id})
	c.Ok(err)
}

func (c *container) stop(grace int64) {
	c.Helper()
	_, err := runtime.StopContainer(c.ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: grace})
	c.Ok(err)
}

func (c *container) status() *cri.ContainerStatus {
	c.Helper()
	answer, err := runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
	c.Ok(err)
	return answer.Status
}

func (c *container) verbose() map[string]any {
	c.Helper()
	answer, err := runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
	c.Ok(err)
	return c.info(answer.Info, "info")
}

// ended waits for the end of the container's process.
func (c *container) ended() *cri.ContainerStatus {
	c.Helper()
	var last *cri.ContainerStatus
	c.Eventually("container "+c.id+" exits", func() (bool, any) {
		last = c.status()
		return last.State == cri.ContainerState_CONTAINER_EXITED, last
	})
	return last
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

// cgroup reads a limit as the container sees it: a file of cgroup v2, or else of v1.
func (c *container) cgroup(v2, v1 string) string {
	c.Helper()
	return c.sh("cat /sys/fs/cgroup/" + v2 + " 2>/dev/null || cat /sys/fs/cgroup/" + v1)
}

// gather reads a list that comes as a stream. The peer must say that it does not know it; then the test ends there.
func gather[Answer any](s *story, stream grpc.ServerStreamingClient[Answer], err error) []*Answer {
	s.Helper()
	s.Ok(err)
	var all []*Answer
	for {
		answer, err := stream.Recv()
		switch {
		case err == io.EOF && !peer:
			return all
		case peer && status.Code(err) == codes.Unimplemented:
			s.SkipNow()
		case peer:
			s.Fatalf("the peer implements this by now: %v, %v", answer, err)
		}
		s.Ok(err)
		all = append(all, answer)
	}
}
