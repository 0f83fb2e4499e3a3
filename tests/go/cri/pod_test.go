package cri

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRunPodSandbox(t *testing.T) {
	s := begin(t)
	before := time.Now().UnixNano()
	p := s.pod()
	status := p.status()
	got := status.Status
	s.Equal("id", got.Id, p.id)
	s.Equal("metadata", got.Metadata, p.config.Metadata)
	s.Equal("state", got.State, cri.PodSandboxState_SANDBOX_READY)
	s.Equal("labels", got.Labels, p.config.Labels)
	s.Equal("annotations", got.Annotations, p.config.Annotations)
	s.Equal("handler", got.RuntimeHandler, "")
	s.truth(before <= got.CreatedAt && got.CreatedAt <= time.Now().UnixNano(), "created at %d, asked at %d", got.CreatedAt, before)
	_, err := netip.ParseAddr(got.Network.GetIp())
	s.Ok(err)

	c := p.run(idle)
	s.Equal("hostname", c.sh("hostname"), p.config.Hostname)
	s.Has(c.sh("ip -o addr show dev eth0"), " "+got.Network.Ip+"/")
	s.Has(c.sh("ip -o link show dev lo"), "UP")
	s.Equal("resolv.conf", c.sh("cat /etc/resolv.conf"), "search example.org\nnameserver 192.0.2.53\noptions ndots:3")
	s.Has(c.sh("cat /etc/hostname"), p.config.Hostname)
	s.Equal("shared memory", c.sh("df -P /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2"), "65536")
}

// Two containers of a pod share its network, its shared memory and its hostname; two pods share nothing.
func TestPodsShare(t *testing.T) {
	s := begin(t)
	p, q := s.pod(), s.pod()
	one, two, other := p.run(idle), p.run(idle), q.run(idle)
	for _, ns := range []string{"net", "ipc", "uts"} {
		link := "readlink /proc/self/ns/" + ns
		s.Equal(ns+" in one pod", one.sh(link), two.sh(link))
		s.truth(one.sh(link) != other.sh(link), "two pods share %s", ns)
	}
	for _, ns := range []string{"pid", "mnt"} {
		link := "readlink /proc/self/ns/" + ns
		s.truth(one.sh(link) != two.sh(link), "two containers share %s", ns)
	}
	one.sh("echo hello >/dev/shm/note")
	s.Equal("shared memory", two.sh("cat /dev/shm/note"), "hello")
	s.Equal("another pod's", other.sh("ls /dev/shm"), "")
	s.truth(p.status().Status.Network.Ip != q.status().Status.Network.Ip, "two pods have one address")
}

func TestRunPodSandboxRefuses(t *testing.T) {
	s := begin(t)
	refused := func(what string, handler string, config *cri.PodSandboxConfig, wanted ...codes.Code) {
		t.Helper()
		answer, err := runtime.RunPodSandbox(s.ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
		if err == nil {
			s.goes(answer.PodSandboxId)
		}
		s.refused(what, err, wanted...)
	}
	refused("a handler that is not configured", "unheard-of", s.podConfig(), codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition)
	if !peer { // which reads metadata that is not there
		refused("no metadata", "", s.podConfig(func(c *cri.PodSandboxConfig) { c.Metadata = nil }), codes.InvalidArgument)
	}
	refused("a sysctl with a separator", "", s.podConfig(func(c *cri.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"no.such.sysctl": "1\nkernel.x=1"}
	}), codes.InvalidArgument)
	list, err := runtime.ListPodSandbox(s.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: s.labels()}})
	s.Ok(err)
	for _, left := range list.Items {
		s.goes(left.Id)
		s.Errorf("a refused pod is listed: %v", left)
	}
}

// The kubelet asks again when its own deadline passed. windlass answers with the pod it is making, or has made; a
// containerd refuses the name as long as it is taken.
func TestRunPodSandboxAgain(t *testing.T) {
	s := begin(t)
	config := s.podConfig()
	again := func(ctx context.Context) (string, error) {
		answer, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
		return answer.GetPodSandboxId(), err
	}
	if !peer {
		// Someone who goes away in the middle is only the first of those who ask.
		brief, cancel := context.WithTimeout(s.ctx, 5*time.Millisecond)
		again(brief)
		cancel()
	}
	ids, errs := together(4, func() (string, error) { return again(s.ctx) })
	for _, id := range ids {
		s.goes(id)
	}
	s.Equal("different pods", len(ids), 1)
	if peer {
		s.Equal("refusals", len(errs), 3)
		_, err := again(s.ctx)
		s.truth(err != nil, "the peer takes up a pod by now")
		return
	}
	s.truth(len(errs) == 0, "refused: %v", errs)
	id, err := again(s.ctx)
	s.Ok(err)
	s.Equal("the same pod, asked for later", id, ids[0])
	list, err := runtime.ListPodSandbox(s.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: s.labels()}})
	s.Ok(err)
	s.Equal("pods", len(list.Items), 1)
}

// together does the same several times at once, and answers the different results and the errors.
func together(times int, do func() (string, error)) (results []string, errs []error) {
	var mutex sync.Mutex
	var wait sync.WaitGroup
	for range times {
		wait.Go(func() {
			result, err := do()
			mutex.Lock()
			defer mutex.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else if !slices.Contains(results, result) {
				results = append(results, result)
			}
		})
	}
	wait.Wait()
	return results, errs
}

// A pod whose first attempt has ended gets another attempt under the same name.
func TestPodAttempts(t *testing.T) {
	s := begin(t)
	first := s.pod()
	first.stop()
	second := s.pod(func(c *cri.PodSandboxConfig) {
		c.Metadata = &cri.PodSandboxMetadata{Name: first.config.Metadata.Name, Uid: first.config.Metadata.Uid, Namespace: s.name, Attempt: 2}
	})
	s.truth(first.id != second.id, "two attempts are one pod")
	s.Equal("the first", first.status().Status.State, cri.PodSandboxState_SANDBOX_NOTREADY)
	s.Equal("the second", second.status().Status.State, cri.PodSandboxState_SANDBOX_READY)
}

func TestStopPodSandbox(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run("trap '' TERM; while :; do sleep 1000; done")
	netns, _ := dig(p.info(p.status().Info, "info"), "runtimeSpec", "linux").(map[string]any)
	p.stop()
	s.Equal("pod", p.status().Status.State, cri.PodSandboxState_SANDBOX_NOTREADY)
	status := c.status()
	s.Equal("container", status.State, cri.ContainerState_CONTAINER_EXITED)
	s.Equal("exit code", status.ExitCode, 137)
	s.Equal("address", p.status().Status.Network.GetIp(), "")
	for _, ns := range asList(netns["namespaces"]) {
		if path, _ := dig(ns, "path").(string); dig(ns, "type") == "network" {
			_, err := os.Stat(path)
			s.truth(os.IsNotExist(err), "the network namespace %s is still there", path)
		}
	}
	p.stop()
	_, err := runtime.StopPodSandbox(s.ctx, &cri.StopPodSandboxRequest{PodSandboxId: "unknown"})
	s.Ok(err)
	_, err = runtime.CreateContainer(s.ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: p.containerConfig(idle), SandboxConfig: p.config})
	s.refused("a container in a pod that has stopped", err, codes.FailedPrecondition)
}

func asList(value any) []any {
	list, _ := value.([]any)
	return list
}

func TestRemovePodSandbox(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run(idle)
	remove := func() error {
		_, err := runtime.RemovePodSandbox(s.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		return err
	}
	if err := remove(); err != nil {
		// Both may be: a pod that runs is stopped first, or refused.
		s.refused("removal of a running pod", err, codes.FailedPrecondition)
		p.stop()
		s.Ok(remove())
	}
	_, err := runtime.PodSandboxStatus(s.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	s.refused("status of a removed pod", err, codes.NotFound)
	_, err = runtime.ContainerStatus(s.ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
	s.refused("status of its container", err, codes.NotFound)
	s.Ok(remove())
	_, err = runtime.RemovePodSandbox(s.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: "unknown"})
	s.Ok(err)
}

// A port of the host leads into the pod, and is free again when the pod has stopped.
func TestHostPort(t *testing.T) {
	s := begin(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	s.Ok(err)
	port := int32(free.Addr().(*net.TCPAddr).Port)
	s.Ok(free.Close())
	p := s.pod(func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 8080, HostPort: port}}
	})
	c := p.run("mkdir /www && echo mapped >/www/index.html && exec httpd -f -p 8080 -h /www")
	gateway := c.sh("ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'")
	ask := func() string {
		client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Get(fmt.Sprintf("http://%s:%d/", gateway, port))
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		page, _ := io.ReadAll(answer.Body)
		return string(page)
	}
	s.Eventually("the port answers", func() (bool, any) {
		page := ask()
		return page == "mapped\n", page
	})
	p.stop()
	s.truth(ask() != "mapped\n", "the port still answers")
}

func TestPodSandboxStatus(t *testing.T) {
	s := begin(t)
	p := s.pod()
	info := p.info(p.status().Info, "info")
	s.Equal("configuration", dig(info, "config", "metadata", "name"), p.config.Metadata.Name)
	s.truth(dig(info, "cniResult", "Interfaces", "eth0") != nil, "no interface: %v", info["cniResult"])
	s.truth(dig(info, "runtimeType") == "io.containerd.runc.v2", "runtime: %v", info["runtimeType"])
	options := p.status().Status.Linux.GetNamespaces().GetOptions()
	s.Equal("network", options.GetNetwork(), cri.NamespaceMode_POD)
	plain, err := runtime.PodSandboxStatus(s.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	s.Ok(err)
	// The peer answers a document of zeros.
	s.truth(len(plain.Info) == 0 || peer, "verbose without being asked: %v", plain.Info)
	_, err = runtime.PodSandboxStatus(s.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: "unknown"})
	s.refused("status of an unknown pod", err, codes.NotFound)
	// An id may be cut short as long as it is clear.
	short, err := runtime.PodSandboxStatus(s.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id[:13]})
	s.Ok(err)
	s.Equal("id", short.Status.Id, p.id)
}

// podFilter is a filter of pods, and the ids that it leaves.
type podFilter struct {
	filter *cri.PodSandboxFilter
	want   []string
}

func podFilters(s *story, running, stopped *pod) map[string]podFilter {
	other := map[string]string{"story": s.name, "no": "such"}
	ready, ended := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}, &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}
	return map[string]podFilter{
		"by label":          {&cri.PodSandboxFilter{LabelSelector: s.labels()}, []string{running.id, stopped.id}},
		"ready":             {&cri.PodSandboxFilter{LabelSelector: s.labels(), State: ready}, []string{running.id}},
		"not ready":         {&cri.PodSandboxFilter{LabelSelector: s.labels(), State: ended}, []string{stopped.id}},
		"by id":             {&cri.PodSandboxFilter{Id: stopped.id}, []string{stopped.id}},
		"by short id":       {&cri.PodSandboxFilter{Id: running.id[:13]}, []string{running.id}},
		"by id and state":   {&cri.PodSandboxFilter{Id: running.id, State: ended}, nil},
		"by another label":  {&cri.PodSandboxFilter{LabelSelector: other}, nil},
		"by an unknown id":  {&cri.PodSandboxFilter{Id: "unknown"}, nil},
		"by id and a label": {&cri.PodSandboxFilter{Id: running.id, LabelSelector: s.labels()}, []string{running.id}},
	}
}

func (s *story) samePods(what string, got []*cri.PodSandbox, want []string) {
	s.Helper()
	var ids []string
	for _, p := range got {
		ids = append(ids, p.Id)
	}
	slices.Sort(ids)
	slices.Sort(want)
	s.Equal(what, ids, want)
}

func TestListPodSandbox(t *testing.T) {
	s := begin(t)
	running, stopped := s.pod(), s.pod()
	stopped.stop()
	for what, f := range podFilters(s, running, stopped) {
		list, err := runtime.ListPodSandbox(s.ctx, &cri.ListPodSandboxRequest{Filter: f.filter})
		s.Ok(err)
		s.samePods(what, list.Items, f.want)
	}
	all, err := runtime.ListPodSandbox(s.ctx, &cri.ListPodSandboxRequest{})
	s.Ok(err)
	at := slices.IndexFunc(all.Items, func(p *cri.PodSandbox) bool { return p.Id == running.id })
	s.truth(at >= 0, "not in the list of all")
	got, status := all.Items[at], running.status().Status
	s.Equal("what the list says", fmt.Sprint(got.Metadata, got.State, got.CreatedAt, got.Labels, got.Annotations, got.RuntimeHandler),
		fmt.Sprint(status.Metadata, status.State, status.CreatedAt, status.Labels, status.Annotations, status.RuntimeHandler))
}

func TestStreamPodSandboxes(t *testing.T) {
	s := begin(t)
	running, stopped := s.pod(), s.pod()
	stopped.stop()
	for what, f := range podFilters(s, running, stopped) {
		stream, err := runtime.StreamPodSandboxes(s.ctx, &cri.StreamPodSandboxesRequest{Filter: f.filter})
		var got []*cri.PodSandbox
		for _, answer := range gather(s, stream, err) {
			got = append(got, answer.PodSandboxes...)
		}
		s.samePods(what, got, f.want)
	}
}

func TestUpdatePodSandboxResources(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run(idle)
	_, err := runtime.UpdatePodSandboxResources(s.ctx, &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id,
		Overhead:     &cri.LinuxContainerResources{CpuShares: 10},
		Resources:    &cri.LinuxContainerResources{CpuShares: 2048, MemoryLimitInBytes: 256 << 20},
	})
	s.Ok(err)
	info := p.info(p.status().Info, "info")
	s.Equal("shares of the pod", dig(info, "resources", "linux", "cpu_shares"), 2048)
	s.Equal("overhead of the pod", dig(info, "overhead", "linux", "cpu_shares"), 10)
	s.Equal("pod", p.status().Status.State, cri.PodSandboxState_SANDBOX_READY)
	s.Equal("the container still answers", c.sh("echo here"), "here")
	_, err = runtime.UpdatePodSandboxResources(s.ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: "unknown"})
	s.refused("resources of an unknown pod", err, codes.NotFound)
}
