package nri

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

type quiet struct{}

func (quiet) Debugf(context.Context, string, ...interface{}) {}
func (quiet) Infof(context.Context, string, ...interface{})  {}
func (quiet) Warnf(context.Context, string, ...interface{})  {}
func (quiet) Errorf(context.Context, string, ...interface{}) {}

// event is what a plugin was told.
type event struct {
	Name      string
	Pod       string
	Container string
}

// plugin subscribes to everything and does what its functions say.
type plugin struct {
	name   string
	stub   stub.Stub
	events chan event
	closed chan struct{}

	config, runtime, version string
	pods                     []*api.PodSandbox
	containers               []*api.Container
	pod                      *api.PodSandbox
	container                *api.Container
	overhead, resources      *api.LinuxResources

	onConfigure func(string)
	onSync      func() []*api.ContainerUpdate
	onEvent     func(string) error
	onCreate    func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	onUpdate    func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
	onStop      func() []*api.ContainerUpdate
}

func newPlugin(name string) *plugin {
	return &plugin{name: name, events: make(chan event, 100), closed: make(chan struct{})}
}

// join registers with a host and waits until it takes part.
func (p *plugin) join(t *testing.T, h *host) *plugin {
	t.Helper()
	p.connect(t, h.socket)
	if got := wait(t, p.events, "synchronization").Name; got != "Synchronize" {
		t.Fatalf("%s instead of Synchronize", got)
	}
	// A plugin joins with everybody else kept out.
	h.do("hold", nil)
	return p
}

func (p *plugin) connect(t *testing.T, socket string) {
	t.Helper()
	var err error
	p.stub, err = stub.New(p, stub.WithSocketPath(socket), stub.WithPluginIdx(p.name[:2]),
		stub.WithPluginName(p.name[3:]), stub.WithOnClose(func() { close(p.closed) }))
	must(t, err)
	must(t, p.stub.Start(context.Background()))
	t.Cleanup(p.stub.Stop)
}

func (p *plugin) tell(name string, pod *api.PodSandbox, container *api.Container) error {
	if pod != nil {
		p.pod = pod
	}
	if container != nil {
		p.container = container
	}
	p.events <- event{name, pod.GetId(), container.GetId()}
	if p.onEvent != nil {
		return p.onEvent(name)
	}
	return nil
}

func (p *plugin) Configure(_ context.Context, config, runtime, version string) (api.EventMask, error) {
	p.config, p.runtime, p.version = config, runtime, version
	if p.onConfigure != nil {
		p.onConfigure(config)
	}
	return 0, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.pods, p.containers = pods, containers
	err := p.tell("Synchronize", nil, nil)
	if p.onSync != nil {
		return p.onSync(), err
	}
	return nil, err
}

func (p *plugin) Shutdown(context.Context) { p.tell("Shutdown", nil, nil) }

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.tell("RunPodSandbox", pod, nil)
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, overhead, resources *api.LinuxResources) error {
	p.overhead, p.resources = overhead, resources
	return p.tell("UpdatePodSandbox", pod, nil)
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.tell("PostUpdatePodSandbox", pod, nil)
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.tell("StopPodSandbox", pod, nil)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.tell("RemovePodSandbox", pod, nil)
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	err := p.tell("CreateContainer", pod, c)
	if p.onCreate != nil && err == nil {
		return p.onCreate(pod, c)
	}
	return nil, nil, err
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.tell("PostCreateContainer", pod, c)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.tell("StartContainer", pod, c)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.tell("PostStartContainer", pod, c)
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.resources = r
	err := p.tell("UpdateContainer", pod, c)
	if p.onUpdate != nil {
		return p.onUpdate(c, r), err
	}
	return nil, err
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.tell("PostUpdateContainer", pod, c)
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	err := p.tell("StopContainer", pod, c)
	if p.onStop != nil {
		return p.onStop(), err
	}
	return nil, err
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.tell("RemoveContainer", pod, c)
}

// expect takes the events that have come and compares them.
func (p *plugin) expect(t *testing.T, want ...event) {
	t.Helper()
	for _, w := range want {
		if got := wait(t, p.events, w.Name); got != w {
			t.Fatalf("%s: %v instead of %v", p.name, got, w)
		}
	}
	select {
	case more := <-p.events:
		t.Fatalf("%s: %v was not expected", p.name, more)
	default:
	}
}

// installed is this program as a plugin that the host has started: it reports over the socket that its configuration
// names.
func installed() {
	p := newPlugin("")
	var report net.Conn
	p.onConfigure = func(config string) {
		var err error
		if report, err = net.Dial("unix", config); err != nil {
			panic(err)
		}
		say(report, object{"name": os.Getenv("NRI_PLUGIN_NAME"), "index": os.Getenv("NRI_PLUGIN_IDX"),
			"environment": os.Environ(), "pid": os.Getpid()})
	}
	p.onEvent = func(name string) error {
		say(report, object{"event": name})
		return nil
	}
	s, err := stub.New(p)
	if err != nil {
		panic(err)
	}
	if err := s.Start(context.Background()); err != nil {
		panic(err)
	}
	// The host kills it.
	select {}
}

func say(c net.Conn, line object) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	c.Write(append(text, '\n'))
}
