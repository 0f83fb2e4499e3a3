package crictl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestContainerLife(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.create("trap 'echo bye; exit 7' TERM; echo ready; sleep 1000 & wait", object{
		"envs": []object{{"key": "COLOUR", "value": "green"}}, "working_dir": "/tmp"})
	s.Equal("state", c.inspect("status", "state"), "CONTAINER_CREATED")
	s.do("start", c.id)
	c.says("ready")
	shown := s.json("inspect", c.id)
	for path, want := range map[string]any{"id": c.id, "state": "CONTAINER_RUNNING", "exitCode": 0,
		"labels": c.labels(), "annotations": object{"example.com/note": "of a container"},
		"logPath": c.log, "metadata": object{"name": c.name, "attempt": 0}} {
		s.Equal(path, dig(shown, "status", path), want)
	}
	s.Equal("image", dig(shown, "status", "image", "image"), image)
	s.Equal("pod", dig(shown, "info", "sandboxID"), p.id)
	pid, is := dig(shown, "info", "pid").(float64)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", int(pid))); !is || err != nil {
		s.Errorf("process %v: %v", pid, err)
	}
	s.Equal("specification", dig(shown, "info", "runtimeSpec", "process", "cwd"), "/tmp")
	s.Equal("quiet", dig(s.json("inspect", "-q", c.id), "info"), nil)
	s.Equal("template", s.do("inspect", "-o", "go-template", "--template", "{{.status.metadata.name}}", c.id), c.name)
	s.Has(s.do("inspect", "-o", "yaml", c.id), "state: CONTAINER_RUNNING")
	s.Has(s.do("inspect", "-o", "table", c.id), "State: CONTAINER_RUNNING")
	s.Equal("by label", dig(s.json("inspect", "--label", "container="+c.name), "status", "id"), c.id)
	s.Equal("inside", c.sh("echo $COLOUR; pwd; hostname"), "green\n/tmp\n"+p.name)

	s.fails("is running, please stop it first", "rm", c.id)
	begun := time.Now()
	s.Equal("what stop says", s.do("stop", "--timeout", "20", c.id), c.id)
	if took := time.Since(begun); took > 10*time.Second {
		s.Errorf("the grace period was waited for although the process had ended: %v", took)
	}
	s.Equal("exit code", c.inspect("status", "exitCode"), 7)
	s.Equal("reason", c.inspect("status", "reason"), "Error")
	s.Has(s.do("logs", c.id), "bye")
	s.fails("", "start", c.id)
	_, err := os.Stat(c.log)
	s.Ok(err)
	s.Equal("what rm says", s.do("rm", "--keep-logs", c.id), c.id)
	_, err = os.Stat(c.log)
	s.Ok(err)
	s.fails("NotFound", "inspect", c.id)
}

func TestRemove(t *testing.T) {
	s := begin(t)
	p := s.pod()
	stubborn := p.run("trap '' TERM; echo ready; sleep 1000; sleep 1000", nil)
	stubborn.says("ready")
	ended := p.run("exit 3", nil)
	ended.ended()
	created := p.create(idle, nil)
	s.do("stop", stubborn.id) // without grace
	s.Equal("exit code", stubborn.inspect("status", "exitCode"), 137)
	running := p.run(idle, nil)
	all := []string{stubborn.id, ended.id, created.id, running.id}
	removed := s.try(append([]string{"rm", "--force"}, all...)...)
	s.Equal("exit code", removed.code, 0)
	for _, id := range all {
		s.Has(removed.out, id)
	}
	s.Equal("left", s.do("ps", "-a", "-q", "--label", "story="+s.name), "")
	left, err := filepath.Glob(p.logs + "/*.log")
	s.Ok(err)
	s.Equal("logs that are left", len(left), 0)
	s.fails("NotFound", "rm", "unknown")
	s.fails("ID cannot be empty", "start")
	s.fails("NotFound", "start", "unknown")
}

// A program that is not there is the start's error, and the status says so.
func TestStartFails(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.create("", object{"command": []string{"/no/such/program"}, "args": []string{}})
	s.fails("/no/such/program", "start", c.id)
	s.Equal("status", fmt.Sprintf("%v %v %v", c.inspect("status", "state"), c.inspect("status", "reason"), c.inspect("status", "exitCode")),
		"CONTAINER_EXITED StartError 128")
	_, file := p.containerConfig(idle, object{"image": object{"image": "no-such-image:1"}})
	s.fails("no-such-image:1", "create", p.id, file, p.file)
	_, file = p.containerConfig(idle, nil)
	s.fails("NotFound", "create", "unknown", file, p.file)
	s.fails("image is not set", "create", p.id, s.write("empty.json", object{"metadata": object{"name": "x"}}), p.file)
}

// run is a pod and a container in one.
func TestRun(t *testing.T) {
	s := begin(t)
	p := s.podConfig(nil)
	name, file := p.containerConfig("echo hello; exec sleep 1000", nil)
	id := s.do("run", "--no-pull", "--runtime", "runc", file, p.file)
	pods := s.do("pods", "-q", "--no-trunc", "--label", "pod="+p.name)
	s.goes(pods)
	p.id = pods
	c := &container{p, id, name, filepath.Join(p.logs, name+"-0.log")}
	c.says("hello")
	s.Equal("state", c.inspect("status", "state"), "CONTAINER_RUNNING")
	s.Equal("pod", c.inspect("info", "sandboxID"), p.id)

	pulled := s.podConfig(nil)
	_, file = pulled.containerConfig(idle, nil)
	id = s.do("run", "--with-pull", "--pull-timeout", "30s", file, pulled.file)
	s.goes(s.do("pods", "-q", "--no-trunc", "--label", "pod="+pulled.name))
	s.Equal("state", dig(s.json("inspect", id), "status", "state"), "CONTAINER_RUNNING")
}

func TestPs(t *testing.T) {
	s := begin(t)
	p, q := s.pod(), s.pod()
	running, exited, created := p.run(idle, nil), p.run("exit 0", nil), q.create(idle, nil)
	exited.ended()
	list := func(args ...string) string {
		return strings.Join(strings.Fields(s.do(append([]string{"ps", "-q", "--no-trunc", "--label", "story=" + s.name}, args...)...)), " ")
	}
	everything := created.id + " " + exited.id + " " + running.id
	s.Equal("running", list(), running.id)
	s.Equal("all, newest first", list("-a"), everything)
	s.Equal("by state", list("--state", "exited"), exited.id)
	s.Equal("by state", list("--state", "created"), created.id)
	s.Equal("by state", list("--state", "running"), running.id)
	s.Equal("by pod", list("-a", "--pod", p.id), exited.id+" "+running.id)
	s.Equal("by the beginning of a pod's id", list("-a", "--pod", q.id[:13]), created.id)
	s.Equal("by name", list("-a", "--name", "^"+created.name+"$"), created.id)
	s.Equal("by id", list("--id", running.id[:13]), running.id)
	s.Equal("by image", list("-a", "--image", image), everything)
	s.Equal("by namespace", list("-a", "--namespace", "^"+s.name+"$"), everything)
	s.Equal("by namespace", list("-a", "--namespace", "^elsewhere$"), "")
	s.Equal("latest", list("--latest"), created.id)
	s.Equal("last", list("--last", "2"), created.id+" "+exited.id)
	table := s.do("ps", "-a", "--label", "story="+s.name)
	for _, want := range []string{"CONTAINER", "Running", "Exited", "Created", running.id[:13], p.id[:13], p.name} {
		s.Has(table, want)
	}
	s.Has(s.do("ps", "--resolve-image-path", "--label", "story="+s.name), image)
	s.Has(s.do("ps", "-v", "--label", "story="+s.name), "ID: "+running.id)
	s.Equal("json", dig(s.json("ps", "-o", "json", "--label", "story="+s.name), "containers", 0, "podSandboxId"), p.id)
	s.Has(s.do("ps", "-o", "yaml", "--label", "story="+s.name), "podSandboxId: "+p.id)
	s.Has(s.try("ps", "--state", "strange").err, "state should be one of")
}

// Limits are in the container's cgroup at once.
func TestUpdate(t *testing.T) {
	s := begin(t)
	p := s.pod()
	limits := object{"linux": object{"resources": object{"cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20}}}
	c, d := p.run(idle, limits), p.run(idle, limits)
	read := func(c *container, v2, v1 string) string {
		return c.sh(fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat %s | xargs", v2, v1))
	}
	memory := func(c *container) string {
		return read(c, "memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
	}
	time := func(c *container) string {
		return read(c, "cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us")
	}
	cpus := func(c *container) string { return read(c, "cpuset.cpus", "/sys/fs/cgroup/cpuset/cpuset.cpus") }
	s.Equal("before", memory(c)+" "+time(c), "67108864 50000 100000")
	s.Equal("what update says", s.do("update", "--memory", fmt.Sprint(96<<20), "--cpu-quota", "20000", "--cpu-period", "50000",
		"--cpu-share", "256", "--cpuset-cpus", "0", c.id, d.id), c.id+"\n"+d.id)
	for _, c := range []*container{c, d} {
		s.Equal("after", memory(c)+" "+time(c)+" "+cpus(c), "100663296 20000 50000 0")
		got := c.inspect("status", "resources", "linux")
		s.Equal("status", fmt.Sprintf("%v %v %v %v", dig(got, "memoryLimitInBytes"), dig(got, "cpuQuota"), dig(got, "cpuShares"), dig(got, "cpusetCpus")), "100663296 20000 256 0")
	}
	s.do("update", "--memory", fmt.Sprint(80<<20), c.id)
	s.Equal("what is not named stays", memory(c)+" "+time(c), "83886080 20000 50000")
	s.fails("NotFound", "update", "--memory", "100000000", "unknown")
	s.fails("", "update", "--cpuset-cpus", "4000", c.id)
	s.Equal("what a refusal leaves", memory(c)+" "+time(c)+" "+cpus(c), "83886080 20000 50000 0")
}

// A checkpoint needs CRIU. Without it the refusal is clear, and the container goes on.
func TestCheckpoint(t *testing.T) {
	s := begin(t)
	c := s.pod().run(idle, nil)
	archive := filepath.Join(s.dir, "checkpoint.tar")
	s.fails("--export", "checkpoint", c.id)
	a := s.try("checkpoint", "--export", archive, c.id)
	_, err := os.Stat(archive)
	switch {
	case a.code == 0:
		s.Ok(err)
	case a.code != 1 || !strings.Contains(strings.ToLower(a.err), "criu"):
		s.Errorf("exit code %d: %s", a.code, a.err)
	case err == nil:
		s.Errorf("a refused checkpoint leaves a file")
	}
	tried.note("checkpoint")
	s.Equal("state", c.inspect("status", "state"), "CONTAINER_RUNNING")
	s.Equal("the container still answers", c.sh("echo here"), "here")
}
