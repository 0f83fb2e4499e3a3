package daemon

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type quiet struct{}

func (quiet) Debugf(context.Context, string, ...interface{}) {}
func (quiet) Infof(context.Context, string, ...interface{})  {}
func (quiet) Warnf(context.Context, string, ...interface{})  {}
func (quiet) Errorf(context.Context, string, ...interface{}) {}

// event is what a plugin was told.
type event struct{ Name, Pod, Container string }

// plugin subscribes to everything and does what its functions say.
type plugin struct {
	name   string
	stub   stub.Stub
	events chan event
	closed chan struct{}

	mu         sync.Mutex
	pods       []*api.PodSandbox
	containers []*api.Container
	pod        *api.PodSandbox
	container  *api.Container

	onConfigure func(string)
	onSync      func() []*api.ContainerUpdate
	onEvent     func(event) error
	onCreate    func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error)
	onUpdate    func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
}

func newPlugin(name string) *plugin {
	return &plugin{name: name, events: make(chan event, 1000), closed: make(chan struct{})}
}

// join registers with the daemon and waits until it takes part, that is, until it is told of something.
func (p *plugin) join(s *story) *plugin {
	s.Helper()
	p.joinAs(s, p)
	return p
}

func (p *plugin) joinAs(s *story, self any) {
	s.Helper()
	var err error
	p.stub, err = stub.New(self, stub.WithSocketPath(daemon.Dir+"/nri.sock"), stub.WithPluginIdx(p.name[:2]),
		stub.WithPluginName(p.name[3:]), stub.WithOnClose(func() { close(p.closed) }))
	s.Ok(err)
	s.Ok(p.stub.Start(context.Background()))
	s.Cleanup(p.leave)
	told := func() bool {
		for {
			select {
			case e := <-p.events:
				if e.Name == "UpdatePodSandbox" && e.Pod == base {
					return true
				}
			default:
				return false
			}
		}
	}
	s.Eventually(p.name+" takes part", func() (bool, any) {
		_, err := runtime.UpdatePodSandboxResources(s.ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: base, Resources: &cri.LinuxContainerResources{}})
		return told(), err
	})
}

func (p *plugin) leave() { p.stub.Stop() }

func (p *plugin) tell(name string, pod *api.PodSandbox, container *api.Container) error {
	p.mu.Lock()
	if pod != nil {
		p.pod = pod
	}
	if container != nil {
		p.container = container
	}
	p.mu.Unlock()
	e := event{name, pod.GetId(), container.GetId()}
	p.events <- e
	if p.onEvent != nil {
		return p.onEvent(e)
	}
	return nil
}

func (p *plugin) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	if p.onConfigure != nil {
		p.onConfigure(config)
	}
	return 0, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	p.pods, p.containers = pods, containers
	p.mu.Unlock()
	err := p.tell("Synchronize", nil, nil)
	if p.onSync != nil {
		return p.onSync(), err
	}
	return nil, err
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.tell("RunPodSandbox", pod, nil)
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
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
		adjust, err := p.onCreate(pod, c)
		return adjust, nil, err
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
	return nil, p.tell("StopContainer", pod, c)
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.tell("RemoveContainer", pod, c)
}

// expect takes the next events of a pod and compares them.
func (p *plugin) expect(s *story, pod string, want ...event) {
	s.Helper()
	limit := time.After(patience)
	for _, w := range want {
		for found := false; !found; {
			select {
			case got := <-p.events:
				if got.Pod != pod {
					continue
				}
				if got != w {
					s.Fatalf("%s: %v instead of %v", p.name, got, w)
				}
				found = true
			case <-limit:
				s.Fatalf("%s: no %v", p.name, w)
			}
		}
	}
	for {
		select {
		case more := <-p.events:
			if more.Pod == pod {
				s.Fatalf("%s: %v was not expected", p.name, more)
			}
		default:
			return
		}
	}
}

// validator is a plugin that judges, too.
type validator struct {
	*plugin
	verdict func(*api.ValidateContainerAdjustmentRequest) error
}

func (v *validator) ValidateContainerAdjustment(_ context.Context, r *api.ValidateContainerAdjustmentRequest) error {
	return v.verdict(r)
}

// report is a line of the installed plugin.
type report struct {
	Event            event
	Pods, Containers []string
}

// installed is this program as a plugin that the daemon has started: it reports over the socket that its configuration
// names, and ends with its connection to the daemon.
func installed() {
	p := newPlugin("")
	p.events = make(chan event, 100000)
	var out *json.Encoder
	p.onConfigure = func(config string) {
		conn, err := net.Dial("unix", config)
		if err != nil {
			panic(err)
		}
		out = json.NewEncoder(conn)
	}
	p.onEvent = func(e event) error {
		r := report{Event: e}
		if e.Name == "Synchronize" {
			for _, pod := range p.pods {
				r.Pods = append(r.Pods, pod.Id)
			}
			for _, c := range p.containers {
				r.Containers = append(r.Containers, c.Id+" "+c.State.String())
			}
		}
		_ = out.Encode(r) // nobody may listen any more
		return nil
	}
	s, err := stub.New(p, stub.WithOnClose(func() { os.Exit(0) }))
	if err != nil {
		panic(err)
	}
	if err := s.Run(context.Background()); err != nil {
		os.Exit(1)
	}
}
