package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCreateContainer(t *testing.T) {
	s := begin(t)
	p := s.pod()
	volume := filepath.Join(s.dir, "volume")
	s.Ok(os.MkdirAll(volume, 0o755))
	s.Ok(os.WriteFile(filepath.Join(volume, "note"), []byte("from outside"), 0o644))
	c := p.create(idle, func(c *cri.ContainerConfig) {
		c.WorkingDir = "/tmp/made/for/it"
		c.Envs = []*cri.KeyValue{{Key: "COLOUR", Value: "blue = sky"}, {Key: "EMPTY", Value: ""}}
		c.Mounts = []*cri.Mount{
			{ContainerPath: "/in", HostPath: volume, Readonly: true},
			{ContainerPath: "/out", HostPath: volume},
		}
		c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1234}
		c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 2345}
		c.Linux.SecurityContext.SupplementalGroups = []int64{3456}
		c.Linux.SecurityContext.NoNewPrivs = true
		c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"CHOWN"}}
	})
	s.Ok(os.Chmod(volume, 0o777))
	status := c.status()
	s.Equal("state", status.State, cri.ContainerState_CONTAINER_CREATED)
	s.truth(status.CreatedAt > 0 && status.StartedAt == 0 && status.FinishedAt == 0, "times: %v", status)
	_, err := os.Stat(c.logFile())
	s.truth(os.IsNotExist(err), "a log before there is output: %v", err)
	_, err = runtime.ExecSync(s.ctx, &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"true"}})
	s.refused("a command in a container that has not started", err, codes.FailedPrecondition)

	c.start()
	s.Equal("folder", c.sh("pwd"), "/tmp/made/for/it")
	s.Equal("environment", c.sh(`echo "$COLOUR-$EMPTY-$HOSTNAME"`), "blue = sky--"+p.config.Hostname)
	s.Equal("user", c.sh("id -u; id -g; id -G"), "1234\n2345\n2345 3456")
	s.Equal("read", c.sh("cat /in/note"), "from outside")
	s.Has(c.sh("touch /in/x 2>&1 || true"), "Read-only")
	c.sh("echo from inside >/out/answer")
	answer, err := os.ReadFile(filepath.Join(volume, "answer"))
	s.Ok(err)
	s.Equal("written", string(answer), "from inside\n")
	s.Equal("no new privileges", c.sh("grep NoNewPrivs /proc/self/status | tr -dc 0-9"), "1")
	var bounding uint64
	fmt.Sscanf(c.sh("grep CapBnd /proc/self/status | cut -f 2"), "%x", &bounding)
	s.truth(bounding&(1<<12) != 0, "NET_ADMIN is missing in %x", bounding)
	s.truth(bounding&1 == 0, "CHOWN is in %x", bounding)
	s.truth(bounding&(1<<21) == 0, "SYS_ADMIN is in %x", bounding)

	status = c.status()
	s.Equal("mounts", len(status.Mounts), 2)
	s.truth(status.Mounts[0].Readonly && !status.Mounts[1].Readonly && status.Mounts[1].HostPath == volume, "mounts: %v", status.Mounts)
	s.Equal("user in the status", fmt.Sprint(status.User.GetLinux().Uid, status.User.GetLinux().Gid), "1234 2345")
}

// Paths that give away the host are out of reach, unless the container is privileged.
func TestConfinement(t *testing.T) {
	s := begin(t)
	masked, readonly := []string{"/proc/kcore", "/proc/timer_list"}, []string{"/proc/sys"}
	paths := func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.MaskedPaths, c.Linux.SecurityContext.ReadonlyPaths = masked, readonly
	}
	p := s.pod(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	plain := p.run(idle, paths)
	s.Equal("masked", plain.sh("wc -c </proc/timer_list"), "0")
	s.Has(plain.sh("echo 1 2>&1 >/proc/sys/net/ipv4/ip_forward || true"), "ead-only")
	s.Has(plain.sh("mount -t tmpfs x /tmp 2>&1 || true"), "denied")
	s.Equal("seccomp", plain.sh("grep Seccomp: /proc/self/status | tr -dc 0-9"), "0")
	s.Has(plain.sh("grep ' /sys ' /proc/mounts"), "ro,")
	filtered := p.run(idle, paths, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
		c.Linux.SecurityContext.ReadonlyRootfs = true
	})
	s.Equal("seccomp", filtered.sh("grep Seccomp: /proc/self/status | tr -dc 0-9"), "2")
	s.Has(filtered.sh("touch /x 2>&1 || true"), "ead-only")
	privileged := p.run(idle, func(c *cri.ContainerConfig) { c.Linux.SecurityContext.Privileged = true })
	privileged.sh("mount -t tmpfs x /tmp && umount /tmp")
	s.Has(privileged.sh("grep ' /sys ' /proc/mounts"), "rw,")
	s.truth(strings.Contains(privileged.sh("ls /dev"), "kmsg"), "no devices of the host")
}

func TestCreateContainerRefuses(t *testing.T) {
	s := begin(t)
	p := s.pod()
	refused := func(what, pod string, change func(*cri.ContainerConfig), wanted ...codes.Code) {
		t.Helper()
		config := p.containerConfig(idle)
		change(config)
		_, err := runtime.CreateContainer(s.ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: p.config})
		s.refused(what, err, wanted...)
	}
	nothing := func(*cri.ContainerConfig) {}
	refused("an unknown pod", "unknown", nothing, codes.NotFound)
	refused("an unknown image", p.id, func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: "example.com/no/such:image"} }, codes.NotFound)
	refused("a source of a mount that cannot be", p.id, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/x", HostPath: "/proc/no-such"}}
	}, codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition)
	refused("a user that the image does not know", p.id, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUsername = "nobody-knows-me"
	}, codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition)
	refused("a group without a user", p.id, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 1}
	}, codes.InvalidArgument)
	refused("a capability that does not exist", p.id, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.Privileged = true
	}, codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied)
	list, err := runtime.ListContainers(s.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: p.id}})
	s.Ok(err)
	s.Equal("containers of refused requests", len(list.Containers), 0)
}

// Like TestRunPodSandboxAgain.
func TestCreateContainerAgain(t *testing.T) {
	s := begin(t)
	p := s.pod()
	config := p.containerConfig(idle)
	again := func(ctx context.Context) (string, error) {
		answer, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
		return answer.GetContainerId(), err
	}
	if !peer {
		brief, cancel := context.WithTimeout(s.ctx, time.Millisecond)
		again(brief)
		cancel()
	}
	ids, errs := together(4, func() (string, error) { return again(s.ctx) })
	s.Equal("different containers", len(ids), 1)
	if peer {
		s.Equal("refusals", len(errs), 3)
		_, err := again(s.ctx)
		s.truth(err != nil, "the peer takes up a container by now")
		return
	}
	s.truth(len(errs) == 0, "refused: %v", errs)
	id, err := again(s.ctx)
	s.Ok(err)
	s.Equal("the same container, asked for later", id, ids[0])
	list, err := runtime.ListContainers(s.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: p.id}})
	s.Ok(err)
	s.Equal("containers", len(list.Containers), 1)
}

func TestContainerStatus(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run(idle)
	status := c.status()
	s.Equal("id", status.Id, c.id)
	s.Equal("metadata", status.Metadata, c.config.Metadata)
	s.Equal("labels", status.Labels, c.config.Labels)
	s.Equal("annotations", status.Annotations, c.config.Annotations)
	s.Equal("log", status.LogPath, c.logFile())
	s.Equal("state", status.State, cri.ContainerState_CONTAINER_RUNNING)
	s.Equal("image", status.Image.Image, image)
	s.Equal("image id", status.ImageId, imageRef)
	s.Has(status.ImageRef, "@sha256:")
	s.truth(status.FinishedAt == 0 && status.Reason == "" && status.ExitCode == 0, "an end: %v", status)

	info := c.verbose()
	s.Equal("pod", info["sandboxID"], p.id)
	pid, _ := info["pid"].(float64)
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", int(pid)))
	s.Ok(err)
	s.Equal("process", string(command), "sh\x00-c\x00"+idle+"\x00")
	s.Equal("arguments", dig(info, "runtimeSpec", "process", "args"), []string{"sh", "-c", idle})
	s.Equal("configuration", dig(info, "config", "metadata", "name"), c.config.Metadata.Name)
	s.truth(info["snapshotter"] != "" && info["snapshotKey"] == c.id, "snapshot: %v %v", info["snapshotter"], info["snapshotKey"])

	short, err := runtime.ContainerStatus(s.ctx, &cri.ContainerStatusRequest{ContainerId: c.id[:13]})
	s.Ok(err)
	s.Equal("id by a part of it", short.Status.Id, c.id)
	_, err = runtime.ContainerStatus(s.ctx, &cri.ContainerStatusRequest{ContainerId: "unknown"})
	s.refused("status of an unknown container", err, codes.NotFound)
}

// containerFilter is a filter of containers, and the ids that it leaves.
type containerFilter struct {
	filter *cri.ContainerFilter
	want   []string
}

func containerFilters(s *story) (map[string]containerFilter, *container) {
	s.Helper()
	p, q := s.pod(), s.pod()
	created, running, exited, other := p.create(idle), p.run(idle), p.run("exit 0"), q.run(idle)
	exited.ended()
	in := func(state cri.ContainerState) *cri.ContainerFilter {
		return &cri.ContainerFilter{LabelSelector: s.labels(), State: &cri.ContainerStateValue{State: state}}
	}
	return map[string]containerFilter{
		"by label":         {&cri.ContainerFilter{LabelSelector: s.labels()}, []string{created.id, running.id, exited.id, other.id}},
		"created":          {in(cri.ContainerState_CONTAINER_CREATED), []string{created.id}},
		"running":          {in(cri.ContainerState_CONTAINER_RUNNING), []string{running.id, other.id}},
		"exited":           {in(cri.ContainerState_CONTAINER_EXITED), []string{exited.id}},
		"of a pod":         {&cri.ContainerFilter{PodSandboxId: q.id}, []string{other.id}},
		"of a short id":    {&cri.ContainerFilter{PodSandboxId: q.id[:13]}, []string{other.id}},
		"by id":            {&cri.ContainerFilter{Id: exited.id}, []string{exited.id}},
		"by short id":      {&cri.ContainerFilter{Id: exited.id[:13]}, []string{exited.id}},
		"by id and pod":    {&cri.ContainerFilter{Id: exited.id, PodSandboxId: q.id}, nil},
		"by an unknown id": {&cri.ContainerFilter{Id: "unknown"}, nil},
		"by another label": {&cri.ContainerFilter{LabelSelector: map[string]string{"story": "another"}}, nil},
	}, running
}

func (s *story) sameContainers(what string, got []*cri.Container, want []string) {
	s.Helper()
	var ids []string
	for _, c := range got {
		ids = append(ids, c.Id)
	}
	slices.Sort(ids)
	slices.Sort(want)
	s.Equal(what, ids, want)
}

func TestListContainers(t *testing.T) {
	s := begin(t)
	filters, running := containerFilters(s)
	for what, f := range filters {
		list, err := runtime.ListContainers(s.ctx, &cri.ListContainersRequest{Filter: f.filter})
		s.Ok(err)
		s.sameContainers(what, list.Containers, f.want)
	}
	all, err := runtime.ListContainers(s.ctx, &cri.ListContainersRequest{})
	s.Ok(err)
	at := slices.IndexFunc(all.Containers, func(c *cri.Container) bool { return c.Id == running.id })
	s.truth(at >= 0, "not in the list of all")
	got, status := all.Containers[at], running.status()
	s.Equal("pod", got.PodSandboxId, running.pod.id)
	s.Equal("what the list says", fmt.Sprint(got.Metadata, got.State, got.CreatedAt, got.Labels, got.Annotations, got.ImageId),
		fmt.Sprint(status.Metadata, status.State, status.CreatedAt, status.Labels, status.Annotations, status.ImageId))
}

func TestStreamContainers(t *testing.T) {
	s := begin(t)
	filters, _ := containerFilters(s)
	for what, f := range filters {
		stream, err := runtime.StreamContainers(s.ctx, &cri.StreamContainersRequest{Filter: f.filter})
		var got []*cri.Container
		for _, answer := range gather(s, stream, err) {
			got = append(got, answer.Containers...)
		}
		s.sameContainers(what, got, f.want)
	}
}

func TestUpdateContainerResources(t *testing.T) {
	s := begin(t)
	c := s.pod().run(idle, func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	})
	cpu := func() string {
		return c.sh("cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us | xargs")
	}
	s.Equal("memory", c.cgroup("memory.max", "memory/memory.limit_in_bytes"), 64<<20)
	s.Equal("time", cpu(), "50000 100000")
	got := c.status().Resources.GetLinux()
	s.Equal("status", fmt.Sprint(got.GetCpuQuota(), got.GetCpuShares(), got.GetMemoryLimitInBytes()), "50000 512 67108864")

	_, err := runtime.UpdateContainerResources(s.ctx, &cri.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &cri.LinuxContainerResources{CpuQuota: 20000, CpuShares: 256, MemoryLimitInBytes: 96 << 20}})
	s.Ok(err)
	s.Equal("memory", c.cgroup("memory.max", "memory/memory.limit_in_bytes"), 96<<20)
	s.Equal("time", cpu(), "20000 100000")
	got = c.status().Resources.GetLinux()
	s.Equal("status", fmt.Sprint(got.GetCpuQuota(), got.GetCpuPeriod(), got.GetCpuShares(), got.GetMemoryLimitInBytes()), "20000 100000 256 100663296")

	// What was asked for before the start holds from the start on.
	created := c.pod.create(idle)
	_, err = runtime.UpdateContainerResources(s.ctx, &cri.UpdateContainerResourcesRequest{
		ContainerId: created.id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}})
	s.Ok(err)
	created.start()
	s.Equal("memory", created.cgroup("memory.max", "memory/memory.limit_in_bytes"), 48<<20)
	_, err = runtime.UpdateContainerResources(s.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: "unknown", Linux: &cri.LinuxContainerResources{}})
	s.refused("resources of an unknown container", err, codes.NotFound)
}

func TestOutOfMemory(t *testing.T) {
	s := begin(t)
	c := s.pod().run("tail /dev/zero", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 16 << 20}
		c.Command, c.Args = []string{"tail", "/dev/zero"}, nil
	})
	status := c.ended()
	s.Equal("exit code and reason", fmt.Sprint(status.ExitCode, " ", status.Reason), "137 OOMKilled")
}
