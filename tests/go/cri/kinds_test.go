package cri

import (
	"fmt"
	"os"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Containers of a pod that shares its processes see one another, and the first process of all is not one of theirs.
func TestPodSharesProcesses(t *testing.T) {
	s := begin(t)
	shared := &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
	p := s.pod(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions = shared })
	in := func(c *cri.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions = shared }
	one, two := p.run(idle, in), p.run("exec sleep 4321", in)
	s.Equal("namespace", one.sh("readlink /proc/self/ns/pid"), two.sh("readlink /proc/self/ns/pid"))
	s.Has(one.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "sleep 4321")
	first := one.sh("cat /proc/1/cmdline | tr '\\0' ' '")
	s.truth(!strings.Contains(first, "sleep") && !strings.HasPrefix(first, "sh"), "the first process is a container's: %q", first)
	// One container's end leaves the other alone, and its orphans are reaped.
	one.stop(10)
	s.Equal("the other", two.status().State, cri.ContainerState_CONTAINER_RUNNING)
	two.sh("(sleep 0 & exec true) & wait")
	s.Eventually("orphans are reaped", func() (bool, any) {
		states := two.sh("grep -h ^State: /proc/[0-9]*/status || true")
		return !strings.Contains(states, "Z"), states
	})
	s.Equal("mode in the status", p.status().Status.Linux.Namespaces.Options.Pid, cri.NamespaceMode_POD)
}

// A debugging container joins the processes of another.
func TestTargetsProcesses(t *testing.T) {
	s := begin(t)
	p := s.pod(func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "" })
	target := p.run("exec sleep 4322")
	debug := p.run(idle, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: target.id}
	})
	s.Has(debug.sh("cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 4322")
}

func TestHostNamespaces(t *testing.T) {
	s := begin(t)
	host := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
	p := s.pod(func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = host
		c.Hostname = ""
	})
	c := p.run(idle, func(c *cri.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions = host })
	for _, ns := range []string{"net", "pid", "ipc"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		s.Ok(err)
		s.Equal(ns, c.sh("readlink /proc/self/ns/"+ns), ours)
	}
	name, err := os.Hostname()
	s.Ok(err)
	s.Equal("hostname", c.sh("hostname"), name)
	// Whose address that is, the kubelet knows itself.
	s.Equal("address", p.status().Status.Network.GetIp(), "")
	s.Equal("modes", p.status().Status.Linux.Namespaces.Options, host)
}

func TestUserNamespaces(t *testing.T) {
	s := begin(t)
	const first, length = 1 << 20, 1 << 16
	mapping := []*cri.IDMapping{{HostId: first, ContainerId: 0, Length: length}}
	options := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping, Gids: mapping}}
	p := s.pod(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions = options })
	volume := s.dir + "/volume"
	s.Ok(os.MkdirAll(volume, 0o777))
	s.Ok(os.Chmod(volume, 0o777))
	in := func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = options
		c.Mounts = []*cri.Mount{{ContainerPath: "/volume", HostPath: volume, UidMappings: mapping, GidMappings: mapping}}
		c.Linux.Resources.MemoryLimitInBytes = 64 << 20
	}
	c, other := p.run(idle, in), p.run(idle, in)
	s.Equal("mapping", strings.Join(strings.Fields(c.sh("cat /proc/self/uid_map")), " "), fmt.Sprint(0, " ", first, " ", length))
	s.Equal("user", c.sh("id -u"), "0")
	s.Equal("owner of the image's files", c.sh("stat -c %u:%g /bin /etc"), "0:0\n0:0")
	s.Equal("one namespace for the pod", c.sh("readlink /proc/self/ns/user"), other.sh("readlink /proc/self/ns/user"))
	pid, _ := c.verbose()["pid"].(float64)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", int(pid)))
	s.Ok(err)
	s.Has(string(status), fmt.Sprintf("Uid:\t%d\t%d", first, first))
	c.sh("echo x >/volume/file && chown 0:0 /volume/file && echo y >/etc/written")
	s.Equal("owner inside", c.sh("stat -c %u /volume/file"), "0")
	s.Has(c.sh("ip -o addr show dev eth0"), p.status().Status.Network.Ip)
	s.Equal("memory", c.cgroup("memory.max", "memory/memory.limit_in_bytes"), 64<<20)
	s.Equal("mode in the status", p.status().Status.Linux.Namespaces.Options.UsernsOptions.GetMode(), cri.NamespaceMode_POD)
}

func TestSysctls(t *testing.T) {
	s := begin(t)
	p := s.pod(func(c *cri.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "123"}
	})
	c := p.run(idle)
	s.Equal("sysctls", c.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max"), "81\n1\n123")
	other := s.pod().run(idle)
	s.truth(other.sh("cat /proc/sys/fs/mqueue/msg_max") != "123", "another pod's sysctl")
}

func TestCgroupParent(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run(idle)
	pid, _ := c.verbose()["pid"].(float64)
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", int(pid)))
	s.Ok(err)
	s.Has(string(groups), p.config.Linux.CgroupParent+"/"+c.id)
	stats, err := runtime.PodSandboxStats(s.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
	s.Ok(err)
	s.truth(stats.Stats.Linux.Memory.GetUsageBytes().GetValue() > 0, "the pod's own group counts nothing: %v", stats.Stats.Linux.Memory)
}
