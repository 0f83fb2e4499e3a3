package nri

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
)

func create(h *host, id string) (any, string) {
	h.t.Helper()
	return h.try("create_container", object{"pod": pod, "container": container(id), "value": spec()})
}

// What a plugin adjusts is in the spec, and what it asks of other containers comes back.
func TestAdjust(t *testing.T) {
	h := start(t, nil)
	p := newPlugin("10-adjust").join(t, h)
	score := -3
	p.onCreate = func(_ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		if c.Args[0] != "sh" || c.Env[1] != "OLD=1" || c.Mounts[0].Destination != "/proc" || c.PodSandboxId != "p1" ||
			c.Linux.Resources.Memory.Limit.GetValue() != 1000 {
			return nil, nil, errors.New("container is " + c.String())
		}
		a := &api.ContainerAdjustment{}
		a.AddEnv("NEW", "2")
		a.RemoveEnv("OLD")
		a.AddMount(&api.Mount{Destination: "/data", Type: "bind", Source: "/srv", Options: []string{"rbind", "ro"}})
		a.AddAnnotation("nri", "was here")
		a.SetLinuxMemoryLimit(2000)
		a.SetLinuxCPUShares(99)
		a.SetLinuxPidLimits(5)
		a.AddLinuxUnified("memory.high", "1")
		a.AddLinuxHugepageLimit("2MB", 3)
		a.SetLinuxOomScoreAdj(&score)
		a.SetLinuxCgroupsPath("/cg")
		a.SetLinuxSysctl("net.x", "1")
		a.AddRlimit("RLIMIT_NOFILE", 20, 10)
		a.AddDevice(&api.LinuxDevice{Path: "/dev/n", Type: "c", Major: 1, Minor: 3})
		a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/net=x"})
		a.AddHooks(&api.Hooks{Poststop: []*api.Hook{{Path: "/bin/true"}}})
		a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "ipc", Path: "/ns"})
		a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"})
		a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_BE, Priority: 4})
		a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH, Nice: 5})
		a.SetLinuxMemoryPolicy(api.MpolMode_MPOL_BIND, "0")
		a.SetLinuxRDTClosID("gold")
		a.SetLinuxBlockIOClass("slow")
		a.AddLinuxNetDevice("eth1", &api.LinuxNetDevice{Name: "net0"})
		a.SetArgs([]string{"sleep", "1"})
		u := &api.ContainerUpdate{}
		u.SetContainerId("other")
		u.SetLinuxCPUSetCPUs("0-1")
		u.SetIgnoreFailure()
		return a, []*api.ContainerUpdate{u}, nil
	}
	answer, fault := create(h, "c1")
	if fault != "" {
		t.Fatal(fault)
	}
	equal(t, "spec", at(t, answer, "spec"), object{
		"ociVersion":  "1.2.0",
		"annotations": object{"nri": "was here"},
		"hooks":       object{"poststop": []object{{"path": "/bin/true"}}},
		"mounts": []object{{"destination": "/data", "type": "bind", "source": "/srv", "options": []string{"rbind", "ro"}},
			{"destination": "/proc", "type": "proc", "source": "proc"}},
		"process": object{"args": []string{"sleep", "1"}, "env": []string{"PATH=/bin", "NEW=2"}, "cwd": "/",
			"oomScoreAdj": -3, "ioPriority": object{"class": "IOPRIO_CLASS_BE", "priority": 4},
			"rlimits":   []object{{"type": "RLIMIT_NOFILE", "hard": 20, "soft": 10}},
			"scheduler": object{"policy": "SCHED_BATCH", "nice": 5}},
		"linux": object{
			"cgroupsPath":  "/cg",
			"devices":      []object{{"path": "/dev/n", "type": "c", "major": 1, "minor": 3}},
			"intelRdt":     object{"closID": "gold"},
			"memoryPolicy": object{"mode": "MPOL_BIND", "nodes": "0"},
			"namespaces":   []object{{"type": "ipc", "path": "/ns"}},
			"netDevices":   object{"eth1": object{"name": "net0"}},
			"resources": object{"memory": object{"limit": 2000, "swap": 2000}, "cpu": object{"shares": 99},
				"pids": object{"limit": 5}, "unified": object{"memory.high": "1"},
				"hugepageLimits": []object{{"pageSize": "2MB", "limit": 3}},
				"devices":        []object{{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}}},
			"seccomp": object{"defaultAction": "SCMP_ACT_ALLOW"},
			"sysctl":  object{"net.x": "1"},
		},
	})
	equal(t, "CDI devices", at(t, answer, "cdi"), []string{"vendor.com/net=x"})
	equal(t, "block I/O class", at(t, answer, "blockio"), "slow")
	equal(t, "updates", at(t, answer, "changes/updates"),
		[]object{{"container": "other", "ignore": true, "resources": object{"cpu": object{"cpus": "0-1"}}}})
}

// The next plugin, by index and not by arrival, sees what the one before has made; both may not set the same.
func TestOrderAndConflict(t *testing.T) {
	h := start(t, nil)
	second := newPlugin("20-second").join(t, h)
	first := newPlugin("10-first").join(t, h)
	equal(t, "plugins", h.plugins(), "10-first 20-second")
	add := func(name, value string) func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		return func(_ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			a := &api.ContainerAdjustment{}
			a.AddEnv(name, strings.Join(c.Env, ",")+value)
			return a, nil, nil
		}
	}
	first.onCreate, second.onCreate = add("A", "+a"), add("B", "+b")
	answer, fault := create(h, "c1")
	equal(t, "fault", fault, "")
	equal(t, "environment", at(t, answer, "spec/process/env"),
		[]string{"PATH=/bin", "OLD=1", "A=PATH=/bin,OLD=1+a", "B=PATH=/bin,OLD=1,A=PATH=/bin,OLD=1+a+b"})
	second.onCreate = add("A", "+b")
	_, fault = create(h, "c2")
	equal(t, "fault", fault, `plugins "20-second" and "10-first" both tried to set Env A`)
	// Nobody is dropped for it.
	equal(t, "plugins", h.plugins(), "10-first 20-second")
	// What a plugin refuses is not made, and the next one is not asked.
	first.onEvent = func(string) error { return errors.New("not with me") }
	_, fault = create(h, "c3")
	if !strings.Contains(fault, "plugin 10-first failed CreateContainer") || !strings.Contains(fault, "not with me") {
		t.Errorf("fault is %q", fault)
	}
	for len(second.events) > 0 {
		if e := <-second.events; e.Container == "c3" {
			t.Errorf("%v", e)
		}
	}
}

// An update can be changed on its way, and bring others with it.
func TestUpdate(t *testing.T) {
	h := start(t, nil)
	p := newPlugin("10-update").join(t, h)
	p.onUpdate = func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate {
		own, other := &api.ContainerUpdate{}, &api.ContainerUpdate{}
		own.SetContainerId(c.Id)
		own.SetLinuxCPUShares(r.Cpu.Shares.GetValue() * 2)
		other.SetContainerId("other")
		other.SetLinuxPidLimits(9)
		return []*api.ContainerUpdate{own, other}
	}
	answer := h.do("update_container", object{"pod": pod, "container": container("c1"),
		"value": object{"cpu": object{"shares": 4}, "memory": object{"limit": 5}}})
	equal(t, "resources", at(t, answer, "resources"), object{"cpu": object{"shares": 8}, "memory": object{"limit": 5}})
	equal(t, "others", at(t, answer, "changes/updates"),
		[]object{{"container": "other", "ignore": false, "resources": object{"pids": object{"limit": 9}}}})
	p.onStop = func() []*api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId("other")
		u.SetLinuxCPUQuota(-1)
		return []*api.ContainerUpdate{u}
	}
	h.do("create_container", object{"pod": pod, "container": container("c1"), "value": spec()})
	answer = h.do("stop_container", object{"pod": pod, "container": container("c1")})
	equal(t, "others", at(t, answer, "updates"),
		[]object{{"container": "other", "ignore": false, "resources": object{"cpu": object{"quota": -1}}}})
}

// A validator sees who has adjusted what, and what it rejects is not made.
func TestValidate(t *testing.T) {
	h := start(t, nil)
	p := newPlugin("10-adjust").join(t, h)
	v := &validator{plugin: newPlugin("90-judge")}
	v.join(t, h)
	p.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("A", "1")
		a.SetLinuxMemoryLimit(7)
		return a, nil, nil
	}
	_, fault := create(h, "c1")
	equal(t, "fault", fault, "")
	owner, _ := v.request.Owners.EnvOwner("c1", "A")
	equal(t, "owner", owner, "10-adjust")
	owner, _ = v.request.Owners.MemLimitOwner("c1")
	equal(t, "owner", owner, "10-adjust")
	equal(t, "plugins", len(v.request.Plugins), 2)
	equal(t, "environment", v.request.Container.Env, []string{"PATH=/bin", "OLD=1"})
	equal(t, "adjustment", v.request.Adjust.Env[0].Key, "A")
	v.verdict = errors.New("no memory for you")
	_, fault = create(h, "c2")
	equal(t, "fault", fault, `validator "90-judge" rejected container adjustment, reason: no memory for you`)
}

// The validator that is built in rejects what configuration says.
func TestDefaultValidator(t *testing.T) {
	h := start(t, object{"default_validator": object{"enable": true, "required_plugins": []string{"needed"},
		"reject_oci_hook_adjustment": true, "tolerate_missing_plugins_annotation": "tolerate"}})
	equal(t, "enabled", h.do("enabled", nil), true)
	_, fault := create(h, "c1")
	if !strings.Contains(fault, "required plugins not present: needed") {
		t.Errorf("fault is %q", fault)
	}
	_, fault = h.try("create_container", object{"pod": object{"id": "p", "annotations": object{"tolerate": "true"}},
		"container": container("c2"), "value": spec()})
	equal(t, "fault", fault, "")
	p := newPlugin("10-needed").join(t, h)
	_, fault = create(h, "c3")
	equal(t, "fault", fault, "")
	p.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/bin/true"}}})
		return a, nil, nil
	}
	_, fault = create(h, "c4")
	if !strings.Contains(fault, "OCI hook") || !strings.Contains(fault, "10-needed") {
		t.Errorf("fault is %q", fault)
	}
}
