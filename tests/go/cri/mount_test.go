package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tmpfs mounts one on the host, for as long as the test runs.
func (s *story) tmpfs(at string) {
	s.Helper()
	s.Ok(os.MkdirAll(at, 0o755))
	s.Ok(syscall.Mount("tmpfs", at, "tmpfs", 0, "size=1m"))
	s.Cleanup(func() { syscall.Unmount(at, syscall.MNT_DETACH) })
}

// What is mounted on the host below a volume shows in the container as far as the volume propagates, and the other way.
func TestMountPropagation(t *testing.T) {
	s := begin(t)
	volume := filepath.Join(s.dir, "volume")
	s.tmpfs(volume)
	s.Ok(syscall.Mount("", volume, "", syscall.MS_SHARED, ""))
	for _, name := range []string{"host", "container"} {
		s.Ok(os.Mkdir(filepath.Join(volume, name), 0o755))
	}
	p := s.pod(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	in := func(mode cri.MountPropagation) *container {
		return p.run(idle, func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/volume", HostPath: volume, Propagation: mode}}
			c.Linux.SecurityContext.Privileged = true
		})
	}
	alone := in(cri.MountPropagation_PROPAGATION_PRIVATE)
	slave := in(cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)
	both := in(cri.MountPropagation_PROPAGATION_BIDIRECTIONAL)
	s.tmpfs(volume + "/host")
	s.Ok(os.WriteFile(volume+"/host/note", nil, 0o644))
	s.Equal("private", alone.sh("ls /volume/host"), "")
	s.Equal("from the host", slave.sh("ls /volume/host"), "note")
	s.Equal("both ways", both.sh("ls /volume/host"), "note")
	both.sh("mount -t tmpfs x /volume/container && touch /volume/container/note")
	_, err := os.Stat(volume + "/container/note")
	s.Ok(err)
	s.Equal("another container", slave.sh("ls /volume/container"), "note")
	both.sh("umount /volume/container")
	slave.sh("mount -t tmpfs x /volume/container && touch /volume/container/note")
	_, err = os.Stat(volume + "/container/note")
	s.truth(os.IsNotExist(err), "a mount left a container that may not give it: %v", err)
}

// A read-only mount may have writable ones below, unless it is read-only all the way down.
func TestRecursiveReadOnly(t *testing.T) {
	s := begin(t)
	volume := filepath.Join(s.dir, "volume")
	s.tmpfs(volume)
	s.tmpfs(volume + "/below")
	p := s.pod()
	in := func(change func(*cri.Mount)) *cri.ContainerConfig {
		mount := &cri.Mount{ContainerPath: "/volume", HostPath: volume, Readonly: true}
		change(mount)
		return p.containerConfig(idle, func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{mount} })
	}
	run := func(config *cri.ContainerConfig) *container {
		answer, err := runtime.CreateContainer(s.ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
		s.Ok(err)
		c := &container{p, answer.ContainerId, config}
		c.start()
		return c
	}
	plain := run(in(func(*cri.Mount) {}))
	s.Has(plain.sh("touch /volume/x 2>&1 || true"), "ead-only")
	plain.sh("touch /volume/below/x")
	deep := run(in(func(m *cri.Mount) { m.RecursiveReadOnly = true }))
	s.Has(deep.sh("touch /volume/below/y 2>&1 || true"), "ead-only")
	s.truth(deep.status().Mounts[0].RecursiveReadOnly, "the status says %v", deep.status().Mounts)
	for what, change := range map[string]func(*cri.Mount){
		"recursive but writable": func(m *cri.Mount) { m.RecursiveReadOnly, m.Readonly = true, false },
		"recursive with mounts that come in": func(m *cri.Mount) {
			m.RecursiveReadOnly, m.Propagation = true, cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		},
	} {
		_, err := runtime.CreateContainer(s.ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: in(change), SandboxConfig: p.config})
		s.refused(what, err, codes.InvalidArgument)
	}
}

// A file that is mounted, a device, and the user's groups as the policy has them.
func TestGrants(t *testing.T) {
	s := begin(t)
	file := filepath.Join(s.dir, "file")
	s.Ok(os.WriteFile(file, []byte("of the host\n"), 0o644))
	p := s.pod()
	c := p.run(idle, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/etc/mounted/file", HostPath: file, Readonly: true}}
		c.Devices = []*cri.Device{{ContainerPath: "/dev/other-null", HostPath: "/dev/null", Permissions: "rw"}}
	})
	s.Equal("file", c.sh("cat /etc/mounted/file"), "of the host")
	c.sh("echo x >/dev/other-null && [ -c /dev/other-null ]")
	s.Has(c.sh("mknod /tmp/sda b 8 0 && cat /tmp/sda 2>&1 || true"), "not permitted")

	merged := p.run(idle, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 4242}
		c.Linux.SecurityContext.SupplementalGroups = []int64{1001, 1002}
	})
	s.Equal("groups", merged.sh("id -G"), "0 1001 1002")
	strict := p.run(idle, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 4242}
		c.Linux.SecurityContext.SupplementalGroups = []int64{1001}
		c.Linux.SecurityContext.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
	})
	s.Equal("groups", strict.sh("id -G"), "0 1001")
	s.Equal("status", fmt.Sprint(strict.status().User.GetLinux().GetSupplementalGroups()), "[0 1001]")
	named := p.run(idle, func(c *cri.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "root" })
	s.Equal("named user", named.sh("id -un"), "root")
}
