package nri

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/nri/pkg/stub"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// validator is a plugin that judges, too.
type validator struct {
	*plugin
	request *api.ValidateContainerAdjustmentRequest
	verdict error
}

func (v *validator) join(t *testing.T, h *host) {
	t.Helper()
	var err error
	v.stub, err = stub.New(v, stub.WithSocketPath(h.socket), stub.WithPluginIdx(v.name[:2]),
		stub.WithPluginName(v.name[3:]))
	must(t, err)
	must(t, v.stub.Start(context.Background()))
	t.Cleanup(v.stub.Stop)
	wait(t, v.events, "synchronization")
	h.do("hold", nil)
}

func (v *validator) ValidateContainerAdjustment(_ context.Context, r *api.ValidateContainerAdjustmentRequest) error {
	v.request = r
	return v.verdict
}

// One that hangs is dropped when its time is up; the operation goes on, and others are told.
func TestHang(t *testing.T) {
	h := start(t, nil)
	hung := newPlugin("10-hangs").join(t, h)
	other := newPlugin("20-other").join(t, h)
	release := make(chan struct{})
	defer close(release)
	hung.onEvent = func(string) error { <-release; return nil }
	begun := time.Now()
	answer := h.begin("run_pod", object{"pod": pod})
	wait(t, hung.events, "RunPodSandbox")
	// What comes meanwhile, and needs nobody who hangs, is not held up.
	equal(t, "enabled", h.do("enabled", nil), true)
	if a := wait(t, answer, "run_pod"); a["error"] != nil {
		t.Errorf("run_pod: %v", a["error"])
	}
	if took := time.Since(begun); took < time.Second || took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	wait(t, hung.closed, "its connection ends")
	other.expect(t, event{"RunPodSandbox", "p1", ""})
	h.left("20-other")
	begun = time.Now()
	_, fault := create(h, "c1")
	equal(t, "fault", fault, "")
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// One that dies amid a request is dropped; its place is free for the next.
func TestDie(t *testing.T) {
	h := start(t, nil)
	dying := newPlugin("10-dies").join(t, h)
	other := newPlugin("20-other").join(t, h)
	dying.onEvent = func(name string) error {
		if name == "CreateContainer" {
			go dying.stub.Stop()
			<-dying.closed
		}
		return errors.New("gone")
	}
	_, fault := create(h, "c1")
	equal(t, "fault", fault, "")
	other.expect(t, event{"CreateContainer", "p1", "c1"})
	h.left("20-other")
	newPlugin("10-dies").join(t, h)
	equal(t, "plugins", h.plugins(), "10-dies 20-other")
}

// A validator that does not answer has not agreed.
func TestSilentValidator(t *testing.T) {
	h := start(t, nil)
	v := &validator{plugin: newPlugin("90-judge")}
	v.join(t, h)
	release := make(chan struct{})
	defer close(release)
	v.onEvent = func(name string) error {
		if name == "CreateContainer" {
			<-release
		}
		return nil
	}
	_, fault := create(h, "c1")
	if !strings.Contains(fault, "ValidateContainerAdjustment") {
		t.Errorf("fault is %q", fault)
	}
	h.left("")
	_, fault = create(h, "c2")
	equal(t, "fault", fault, "")
}

func dial(t *testing.T, h *host) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", h.socket)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// ended waits until the host has closed the connection.
func ended(t *testing.T, what string, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(limit)))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the connection is left open", what)
	}
}

func frame(connection, length uint32, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, connection)
	return append(binary.BigEndian.AppendUint32(b, length), payload...)
}

func message(length uint32, kind byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, length)
	return append(binary.BigEndian.AppendUint32(b, 1), kind, 0)
}

// Whatever comes over the socket ends that connection at most.
func TestGarbage(t *testing.T) {
	h := start(t, nil)
	good := newPlugin("50-good").join(t, h)
	for what, bytes := range map[string][]byte{
		"nothing":               {},
		"noise":                 []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"a frame too long":      frame(2, 0xffffffff),
		"a frame a byte long":   frame(2, 4<<20+11),
		"a message too long":    frame(2, 10, message(4<<20+1, 1)...),
		"an unknown type":       frame(2, 10, message(0, 9)...),
		"a request as answer":   frame(1, 10, message(0, 1)...),
		"an answer as request":  frame(2, 10, message(0, 2)...),
		"half a frame":          frame(2, 100, 1, 2, 3),
		"a message in no time":  frame(2, 10, message(4<<20, 1)...),
		"an unknown connection": frame(77, 3, 1, 2, 3),
		"an answer to nobody":   frame(1, 12, append(message(2, 2), 8, 1)...),
	} {
		t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
			t.Parallel()
			c := dial(t, h)
			_, err := c.Write(bytes)
			must(t, err)
			ended(t, what, c)
		})
	}
	t.Cleanup(func() {
		// Runs before the host is stopped, after the cases.
		equal(t, "plugins", h.plugins(), "50-good")
		h.do("run_pod", object{"pod": pod})
		good.expect(t, event{"RunPodSandbox", "p1", ""})
	})
}

func client(t *testing.T, h *host) *ttrpc.Client {
	t.Helper()
	c, err := multiplex.Multiplex(dial(t, h)).Open(multiplex.RuntimeServiceConn)
	must(t, err)
	return ttrpc.NewClient(c)
}

// What is not there says so, and names that are none are refused.
func TestRefusals(t *testing.T) {
	h := start(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := client(t, h)
	for _, call := range [][2]string{{"nri.pkg.api.v1alpha1.Runtime", "Nope"}, {"nri.pkg.api.v1alpha1.Nope", "Log"},
		{"nri.pkg.api.v1alpha1.HostFunctions", "Log"}} {
		err := c.Call(ctx, call[0], call[1], &api.Empty{}, &api.Empty{})
		equal(t, call[1], status.Code(err), codes.Unimplemented)
	}
	_, err := api.NewRuntimeClient(c).UpdateContainers(ctx, &api.UpdateContainersRequest{})
	equal(t, "update before registration", status.Code(err), codes.FailedPrecondition)
	for _, name := range [][2]string{{"x", "good"}, {"1", "good"}, {"10", ""}, {"10", "../bad"}, {"10", strings.Repeat("x", 200)}} {
		_, err := api.NewRuntimeClient(client(t, h)).RegisterPlugin(ctx,
			&api.RegisterPluginRequest{PluginIdx: name[0], PluginName: name[1]})
		equal(t, name[0]+"-"+name[1], status.Code(err), codes.InvalidArgument)
	}
	// One that registers and then says nothing is dropped, and so is one that registers twice.
	c = client(t, h)
	_, err = api.NewRuntimeClient(c).RegisterPlugin(ctx, &api.RegisterPluginRequest{PluginIdx: "10", PluginName: "mute"})
	must(t, err)
	_, err = api.NewRuntimeClient(c).RegisterPlugin(ctx, &api.RegisterPluginRequest{PluginIdx: "10", PluginName: "mute"})
	equal(t, "second registration", status.Code(err), codes.AlreadyExists)
	if err := c.UserOnCloseWait(ctx); err != nil {
		t.Errorf("the connection is left open: %v", err)
	}
	equal(t, "plugins", h.plugins(), "")
}

// older is a plugin from before events had requests of their own.
type older struct{ events chan api.Event }

func (o *older) service() *ttrpc.Server {
	s, err := ttrpc.NewServer()
	if err != nil {
		panic(err)
	}
	s.Register("nri.pkg.api.v1alpha1.Plugin", map[string]ttrpc.Method{
		"Configure": func(_ context.Context, _ func(any) error) (any, error) {
			return &api.ConfigureResponse{}, nil
		},
		"Synchronize": func(_ context.Context, _ func(any) error) (any, error) {
			return &api.SynchronizeResponse{}, nil
		},
		"StateChange": func(_ context.Context, read func(any) error) (any, error) {
			var e api.StateChangeEvent
			if err := read(&e); err != nil {
				return nil, err
			}
			o.events <- e.Event
			return &api.Empty{}, nil
		},
	})
	return s
}

// A plugin that only knows StateChange is told of events by it.
func TestOlder(t *testing.T) {
	h := start(t, nil)
	mux := multiplex.Multiplex(dial(t, h))
	l, err := mux.Listen(multiplex.PluginServiceConn)
	must(t, err)
	o := &older{events: make(chan api.Event, 10)}
	s := o.service()
	t.Cleanup(func() { s.Close() })
	go s.Serve(context.Background(), l)
	c, err := mux.Open(multiplex.RuntimeServiceConn)
	must(t, err)
	_, err = api.NewRuntimeClient(ttrpc.NewClient(c)).RegisterPlugin(context.Background(),
		&api.RegisterPluginRequest{PluginIdx: "10", PluginName: "older"})
	must(t, err)
	h.left("10-older")
	h.do("run_pod", object{"pod": pod})
	h.do("stop_pod", object{"pod": pod})
	for _, want := range []api.Event{api.Event_RUN_POD_SANDBOX, api.Event_STOP_POD_SANDBOX} {
		equal(t, "event", wait(t, o.events, "StateChange"), want)
	}
}
