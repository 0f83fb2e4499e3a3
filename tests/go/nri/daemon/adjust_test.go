package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a plugin adjusts is in the process, its cgroup and the specification.
func TestAdjust(t *testing.T) {
	s := begin(t)
	file := s.file("data", "from the host")
	p := newPlugin("10-adjust").join(s)
	score := 500
	p.onCreate = func(_ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("NEW", "2")
		a.RemoveEnv("OLD")
		a.AddMount(&api.Mount{Destination: "/data", Type: "bind", Source: file, Options: []string{"rbind", "ro"}})
		a.AddAnnotation("example.com/nri", "was here")
		a.AddRlimit("RLIMIT_NOFILE", 777, 555)
		a.AddDevice(&api.LinuxDevice{Path: "/dev/nri-null", Type: "c", Major: 1, Minor: 3})
		a.SetLinuxCPUShares(99)
		a.SetLinuxMemoryLimit(48 << 20)
		a.SetLinuxPidLimits(123)
		a.SetLinuxOomScoreAdj(&score)
		a.SetLinuxSysctl("net.ipv4.ip_unprivileged_port_start", "77")
		return a, nil
	}
	c := s.pod().run()
	environment := c.sh("tr '\\0' ' ' </proc/1/environ")
	s.Has(environment+" ", " NEW=2 ")
	if strings.Contains(environment, "OLD=") && !peer { // which forgets to remove
		s.Errorf("environment is %s", environment)
	}
	s.Equal("mount", c.sh("cat /data; touch /data 2>&1 | grep -o Read-only"), "from the hostRead-only")
	s.Equal("open files", strings.Join(strings.Fields(c.sh("grep 'open files' /proc/1/limits"))[3:5], " "), "555 777")
	s.Equal("OOM score", c.sh("cat /proc/1/oom_score_adj"), "500")
	s.Equal("device", c.sh("echo x >/dev/nri-null && stat -c %t:%T /dev/nri-null"), "1:3")
	s.Equal("shares", c.shares(), weight(99))
	s.Equal("memory", c.memory(), 48<<20)
	s.Equal("processes", c.sh("cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"), "123")
	s.Equal("sysctl", c.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "77")
	spec := c.info()["runtimeSpec"].(map[string]any)
	s.Equal("annotation", spec["annotations"].(map[string]any)["example.com/nri"], "was here")
}

// A class is looked up when a plugin names it: its parameters are in the cgroup, and one that is not there is refused.
func TestClasses(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	p := newPlugin("10-classes").join(s)
	a := &api.ContainerAdjustment{}
	p.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error) { return a, nil }
	a.SetLinuxBlockIOClass("slow")
	_, number, err := disk()
	s.Ok(err)
	limits := pod.run().sh("cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device 2>/dev/null || cat /sys/fs/cgroup/io.max")
	s.Has(limits, number+" ")
	s.Has(limits, "300000000")
	a.SetLinuxBlockIOClass("nosuch")
	if _, err := pod.try(); err == nil || !strings.Contains(err.Error(), "nosuch") {
		s.Errorf("error is %v", err)
	}
	if peer { // which leaves it to the runtime
		return
	}
	a = &api.ContainerAdjustment{}
	a.SetLinuxRDTClass("nosuch")
	if _, err := pod.try(); err == nil || !strings.Contains(err.Error(), "RDT") || !strings.Contains(err.Error(), "nosuch") {
		s.Errorf("error is %v", err)
	}
}

// The next plugin, by index, sees what the one before has made; both may not set the same.
func TestTwo(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	second, first := newPlugin("20-second").join(s), newPlugin("10-first").join(s)
	add := func(name, value string) func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error) {
		return func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error) {
			a := &api.ContainerAdjustment{}
			a.AddEnv(name, value)
			return a, nil
		}
	}
	first.onCreate, second.onCreate = add("A", "first"), add("B", "second")
	s.Equal("environment", pod.run().sh("echo $A $B"), "first second")
	s.Has(strings.Join(second.container.Env, " "), "A=first")
	second.onCreate = add("A", "second")
	if _, err := pod.try(); err == nil || !strings.Contains(err.Error(), "both tried to set") {
		s.Errorf("error is %v", err)
	}
}

// What a plugin asks for unasked is in the cgroup when it has its answer, and what cannot be done is answered.
func TestUnsolicited(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	c, other := pod.run(), pod.run()
	p := newPlugin("10-updates").join(s)
	mine, bad := &api.ContainerUpdate{}, &api.ContainerUpdate{}
	mine.SetContainerId(c.id)
	mine.SetLinuxCPUShares(222)
	mine.SetLinuxMemoryLimit(80 << 20)
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{mine})
	s.Ok(err)
	s.Equal("failed", len(failed), 0)
	s.Equal("shares", c.shares(), weight(222))
	s.Equal("memory", c.memory(), 80<<20)
	bad.SetContainerId(other.id)
	bad.SetLinuxCPUSetCPUs("4000")
	failed, err = p.stub.UpdateContainers([]*api.ContainerUpdate{bad})
	if !peer || err == nil { // which says that something failed, and not what
		s.Ok(err)
		s.Equal("failed", len(failed), 1)
		s.Equal("failed", failed[0].ContainerId, other.id)
	}
	bad.SetIgnoreFailure()
	mine.SetLinuxCPUShares(111)
	failed, err = p.stub.UpdateContainers([]*api.ContainerUpdate{bad, mine})
	s.Ok(err)
	s.Equal("failed", len(failed), 0)
	s.Equal("the other is updated", c.shares(), weight(111))
}

// An update of the kubelet's can be changed on its way, and bring other containers with it.
func TestUpdate(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	c, other := pod.run(), pod.run()
	p := newPlugin("10-update").join(s)
	p.onUpdate = func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate {
		own, more := &api.ContainerUpdate{}, &api.ContainerUpdate{}
		own.SetContainerId(c.Id)
		own.SetLinuxCPUShares(r.Cpu.Shares.GetValue() * 2)
		more.SetContainerId(other.id)
		more.SetLinuxCPUShares(44)
		return []*api.ContainerUpdate{own, more}
	}
	c.update(&cri.LinuxContainerResources{CpuShares: 400})
	s.Equal("shares", c.shares(), weight(800))
	s.Equal("the other's", other.shares(), weight(44))
}

// A validator sees who adjusts what, and what it rejects is not made.
func TestValidate(t *testing.T) {
	s := begin(t)
	pod := s.pod()
	p := newPlugin("10-adjust").join(s)
	p.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("A", "1")
		return a, nil
	}
	var reject error
	var owner string
	v := &validator{newPlugin("90-judge"), func(r *api.ValidateContainerAdjustmentRequest) error {
		owner, _ = r.Owners.EnvOwner(r.Container.Id, "A")
		return reject
	}}
	v.joinAs(s, v)
	s.Equal("environment", pod.run().sh("echo $A"), "1")
	s.Equal("owner", owner, "10-adjust")
	before := pod.containers()
	reject = errors.New("no A for you")
	_, err := pod.try()
	if err == nil || !strings.Contains(err.Error(), "no A for you") {
		s.Errorf("error is %v", err)
	}
	s.Equal("containers", pod.containers(), before)
}
