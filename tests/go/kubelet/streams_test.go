package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var config = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

// transports are the two ways to stream.
var transports = map[string]struct {
	executor func(*url.URL) (remotecommand.Executor, error)
	dialer   func(*url.URL) (httpstream.Dialer, error)
}{
	"SPDY": {
		func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(config, "POST", u)
		},
		func(u *url.URL) (httpstream.Dialer, error) {
			rt, upgrader, err := spdy.RoundTripperFor(config)
			if err != nil {
				return nil, err
			}
			return spdy.NewDialer(upgrader, &http.Client{Transport: rt}, "POST", u), nil
		},
	},
	"WebSocket": {
		func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(config, "GET", u.String())
		},
		func(u *url.URL) (httpstream.Dialer, error) {
			return portforward.NewSPDYOverWebsocketDialer(u, config)
		},
	},
}

// stream speaks with a container of "pod/container".
func (n *node) stream(ctx context.Context, verb, transport, where string, in io.Reader, out, errs io.Writer, command ...string) error {
	pod, container, _ := strings.Cut(where, "/")
	query := url.Values{"output": {"1"}, "error": {"1"}, "command": command}
	if in != nil {
		query.Set("input", "1")
	}
	u, err := url.Parse(fmt.Sprintf("%s/%s/default/%s-node1/%s?%s", n.url, verb, pod, container, query.Encode()))
	if err != nil {
		return err
	}
	executor, err := transports[transport].executor(u)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: errs})
}

func (n *node) exec(ctx context.Context, transport, where string, in io.Reader, out, errs io.Writer, command ...string) error {
	return n.stream(ctx, "exec", transport, where, in, out, errs, command...)
}

func (n *node) executes(t *testing.T, transport string) {
	var out, errs bytes.Buffer
	err := n.exec(t.Context(), transport, "streams/echo", strings.NewReader("typed"), &out, &errs, "sh", "-c", "cat; echo aside >&2; exit 7")
	var exit exec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("exec ended with %v", err)
	}
	equal(t, "output", out.String(), "typed")
	equal(t, "errors", errs.String(), "aside\n")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	out.Reset()
	check(t, n.exec(t.Context(), transport, "streams/echo", bytes.NewReader(big), &out, &errs, "cat"))
	if !bytes.Equal(out.Bytes(), big) {
		t.Errorf("of %d bytes %d came back, or others", len(big), out.Len())
	}
}

// awaited is written to until a text is there.
type awaited struct {
	sync.Mutex
	text string
	want string
	seen chan struct{}
}

func (a *awaited) Write(p []byte) (int, error) {
	a.Lock()
	defer a.Unlock()
	a.text += string(p)
	if a.want != "" && strings.Contains(a.text, a.want) {
		close(a.seen)
		a.want = ""
	}
	return len(p), nil
}

func (n *node) attaches(t *testing.T, transport string) {
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	in, typing := io.Pipe()
	defer typing.Close()
	out := &awaited{want: "heard " + transport + "\n", seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- n.stream(ctx, "attach", transport, "streams/echo", in, out, io.Discard) }()
	go fmt.Fprintf(typing, "%s\n", transport)
	select {
	case <-out.seen:
	case err := <-done:
		t.Fatalf("attach ended: %v; output %q", err, out.text)
	case <-time.After(time.Minute):
		t.Fatal("what was typed was not answered")
	}
	leave()
	<-done
}

func (n *node) forwards(t *testing.T, transport string) {
	u, err := url.Parse(n.url + "/portForward/default/streams-node1")
	check(t, err)
	dialer, err := transports[transport].dialer(u)
	check(t, err)
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	check(t, err)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the port forward ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the port forward does not become ready")
	}
	ports, err := forwarder.GetPorts()
	check(t, err)
	for range 3 {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/index.html", ports[0].Local))
		check(t, err)
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		check(t, err)
		equal(t, "page", string(text), "windlass\n")
	}
	http.DefaultClient.CloseIdleConnections()
	close(stop)
	check(t, <-ended)
}
