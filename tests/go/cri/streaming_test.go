package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var restConfig = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

// transports are the two ways to stream.
var transports = map[string]func(*url.URL) (remotecommand.Executor, error){
	"SPDY": func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(restConfig, "POST", u)
	},
	"WebSocket": func(u *url.URL) (remotecommand.Executor, error) {
		if peer { // which knows no later protocol; kubectl falls back to SPDY there
			return remotecommand.NewWebSocketExecutorForProtocols(restConfig, "GET", u.String(), "v4.channel.k8s.io")
		}
		return remotecommand.NewWebSocketExecutor(restConfig, "GET", u.String())
	},
}

// each runs a story over each transport, with one container. The peer's WebSocket cannot tell the end of input.
func each(t *testing.T, script string, test func(*container, string), changes ...func(*cri.ContainerConfig)) {
	for name := range transports {
		t.Run(name, func(t *testing.T) {
			if ends := t.Name() == "TestExec/WebSocket" || t.Name() == "TestAttach/WebSocket"; peer && ends {
				t.Skip("the peer's WebSocket cannot tell the end of input")
			}
			c := begin(t).pod().run(script, changes...)
			test(c, name)
		})
	}
}

func (s *story) stream(transport, address string, options remotecommand.StreamOptions) error {
	s.Helper()
	return streamed(s.ctx, transport, address, options)
}

func streamed(ctx context.Context, transport, address string, options remotecommand.StreamOptions) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	executor, err := transports[transport](u)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

// session is a stream that runs on its own, and that one types into.
type session struct {
	*story
	output, errors shared
	typing         *io.PipeWriter
	leave          context.CancelFunc
	done           chan error
}

func (s *story) session(transport, address string, options remotecommand.StreamOptions) *session {
	ctx, leave := context.WithCancel(s.ctx)
	input, typing := io.Pipe()
	a := &session{story: s, typing: typing, leave: leave, done: make(chan error, 1)}
	options.Stdin, options.Stdout = input, &a.output
	if !options.Tty {
		options.Stderr = &a.errors
	}
	s.Cleanup(func() {
		leave()
		typing.Close()
	})
	go func() {
		err := streamed(ctx, transport, address, options)
		// No one reads what is typed from now on.
		input.CloseWithError(fmt.Errorf("the stream has ended: %w", errors.Join(io.ErrClosedPipe, err)))
		a.done <- err
	}()
	return a
}

func (a *session) types(text string) {
	a.Helper()
	_, err := io.WriteString(a.typing, text)
	a.Ok(err)
}

func (a *session) shows(want string) {
	a.Helper()
	a.Eventually("the stream shows "+want, func() (bool, any) {
		text := a.output.String()
		return strings.Contains(text, want), text
	})
}

func (c *container) execURL(tty bool, cmd ...string) string {
	c.Helper()
	answer, err := runtime.Exec(c.ctx, &cri.ExecRequest{ContainerId: c.id, Cmd: cmd, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty})
	c.Ok(err)
	return answer.Url
}

func (c *container) attachURL(tty bool) string {
	c.Helper()
	answer, err := runtime.Attach(c.ctx, &cri.AttachRequest{ContainerId: c.id, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty})
	c.Ok(err)
	return answer.Url
}

func TestExec(t *testing.T) {
	each(t, idle, func(c *container, transport string) {
		var stdout, stderr bytes.Buffer
		c.Ok(c.stream(transport, c.execURL(false, "sh", "-c", "cat; echo to stderr >&2"), remotecommand.StreamOptions{
			Stdin: strings.NewReader("through and back"), Stdout: &stdout, Stderr: &stderr}))
		c.Equal("output", stdout.String(), "through and back")
		c.Equal("errors", stderr.String(), "to stderr\n")

		stdout.Reset()
		c.Ok(c.stream(transport, c.execURL(false, "cat"), remotecommand.StreamOptions{
			Stdin: strings.NewReader(strings.Repeat("0123456789", 100000)), Stdout: &stdout, Stderr: io.Discard}))
		c.truth(stdout.String() == strings.Repeat("0123456789", 100000), "%d of 1000000 bytes came back", stdout.Len())

		err := c.stream(transport, c.execURL(false, "sh", "-c", "exit 9"), remotecommand.StreamOptions{
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
		var exit exec.CodeExitError
		c.truth(errors.As(err, &exit) && exit.Code == 9, "wanted exit code 9: %v", err)
		err = c.stream(transport, c.execURL(false, "/no/such/program"), remotecommand.StreamOptions{
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
		c.truth(err != nil && !errors.As(err, &exit), "a program that is not there: %v", err)

		// A URL is good for one time.
		used := c.execURL(false, "true")
		options := remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}
		c.Ok(c.stream(transport, used, options))
		c.truth(c.stream(transport, used, options) != nil, "a URL was good twice")
	})
}

// sizes are what a terminal becomes.
type sizes chan *remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize { return <-s }

func TestExecTerminal(t *testing.T) {
	each(t, idle, func(c *container, transport string) {
		resize := make(sizes, 1)
		resize <- &remotecommand.TerminalSize{Width: 111, Height: 33}
		defer close(resize)
		a := c.session(transport, c.execURL(true, "sh", "-c",
			"until stty size | grep -q '33 111'; do :; done; echo sized; read word; echo got $word; tty"),
			remotecommand.StreamOptions{Tty: true, TerminalSizeQueue: resize})
		a.shows("sized")
		a.types("hello\n")
		c.Ok(<-a.done)
		c.Has(a.output.String(), "got hello")
		c.Has(a.output.String(), "/dev/pts/")
	})
}

// shared is a buffer that one writes while another reads.
type shared struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.buffer.Write(p)
}

func (s *shared) String() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.buffer.String()
}

func TestExecRefuses(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.create(idle)
	ask := func(id string, change func(*cri.ExecRequest)) error {
		request := &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true}
		change(request)
		_, err := runtime.Exec(s.ctx, request)
		return err
	}
	none := func(*cri.ExecRequest) {}
	s.refused("an unknown container", ask("unknown", none), codes.NotFound)
	s.refused("a container that has not started", ask(c.id, none), codes.FailedPrecondition)
	c.start()
	s.refused("no stream at all", ask(c.id, func(r *cri.ExecRequest) { r.Stdout = false }), codes.InvalidArgument)
	s.refused("errors beside a terminal", ask(c.id, func(r *cri.ExecRequest) { r.Tty, r.Stderr = true, true }), codes.InvalidArgument)
	_, err := runtime.Attach(s.ctx, &cri.AttachRequest{ContainerId: "unknown", Stdout: true})
	s.refused("attach to an unknown container", err, codes.NotFound)
	_, err = runtime.PortForward(s.ctx, &cri.PortForwardRequest{PodSandboxId: "unknown", Port: []int32{80}})
	s.refused("ports of an unknown pod", err, codes.NotFound)
}

// Two look on, one of them types; the end of what is typed ends the container where that is asked for.
func TestAttach(t *testing.T) {
	each(t, "echo ready; cat; echo end >&2", func(c *container, transport string) {
		c.says("ready")
		var watched shared
		watching := make(chan error, 1)
		answer, err := runtime.Attach(c.ctx, &cri.AttachRequest{ContainerId: c.id, Stdout: true, Stderr: true})
		c.Ok(err)
		go func() {
			watching <- streamed(c.ctx, transport, answer.Url, remotecommand.StreamOptions{Stdout: &watched, Stderr: io.Discard})
		}()
		a := c.session(transport, c.attachURL(false), remotecommand.StreamOptions{})
		// What came before one looked is in the log alone; so something is typed until both have seen it.
		c.Eventually("both see what is typed", func() (bool, any) {
			a.types("a word\n")
			return strings.Contains(watched.String(), "a word") && strings.Contains(a.output.String(), "a word"), watched.String() + a.output.String()
		})
		c.Ok(a.typing.Close())
		c.Ok(<-a.done)
		c.Ok(<-watching)
		c.Equal("errors", a.errors.String(), "end\n")
		c.Equal("exit code", c.ended().ExitCode, 0)
		c.says("a word")
	}, func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
}

// Who leaves a terminal does not end what runs in it, and may come back.
func TestAttachTerminal(t *testing.T) {
	each(t, "while read word; do echo got $word; done", func(c *container, transport string) {
		for _, word := range []string{"one", "two"} {
			a := c.session(transport, c.attachURL(true), remotecommand.StreamOptions{Tty: true})
			a.types(word + "\n")
			a.shows("got " + word)
			a.leave()
			<-a.done
			c.Equal("state", c.status().State, cri.ContainerState_CONTAINER_RUNNING)
		}
	}, func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true })
}

// dialers are the two ways to forward ports; the second is how kubectl does it by way of an API server.
var dialers = map[string]func(*url.URL) (httpstream.Dialer, error){
	"SPDY": func(u *url.URL) (httpstream.Dialer, error) {
		transport, upgrader, err := spdy.RoundTripperFor(restConfig)
		if err != nil {
			return nil, err
		}
		return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), nil
	},
	"WebSocket": func(u *url.URL) (httpstream.Dialer, error) {
		return portforward.NewSPDYOverWebsocketDialer(u, restConfig)
	},
}

func TestPortForward(t *testing.T) {
	for name, dialer := range dialers {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			if peer && name == "WebSocket" {
				t.Skip("the peer leaves this to the API server")
			}
			p := s.pod()
			c := p.run("mkdir /www && echo a page >/www/index.html && echo ready && exec httpd -f -p 127.0.0.1:8080 -h /www")
			c.says("ready")
			s.Eventually("the server listens", func() (bool, any) {
				sockets := c.sh("cat /proc/net/tcp")
				return strings.Contains(sockets, "0100007F:1F90"), sockets
			})
			answer, err := runtime.PortForward(s.ctx, &cri.PortForwardRequest{PodSandboxId: p.id, Port: []int32{8080}})
			s.Ok(err)
			u, err := url.Parse(answer.Url)
			s.Ok(err)
			dial, err := dialer(u)
			s.Ok(err)
			stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			forwarder, err := portforward.NewOnAddresses(dial, []string{"127.0.0.1"}, []string{"0:8080", "0:8081"}, stop, ready, io.Discard, io.Discard)
			s.Ok(err)
			go func() { ended <- forwarder.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-ended:
				s.Fatal(err)
			case <-time.After(patience):
				s.Fatal("the port forward does not become ready")
			}
			ports, err := forwarder.GetPorts()
			s.Ok(err)
			client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
			pages, errs := together(10, func() (string, error) {
				answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/index.html", ports[0].Local))
				if err != nil {
					return "", err
				}
				defer answer.Body.Close()
				body, err := io.ReadAll(answer.Body)
				return string(body), err
			})
			s.truth(len(errs) == 0, "failures: %v", errs)
			s.Equal("pages", fmt.Sprintf("%q", pages), `["a page\n"]`)
			// Where no one listens, the connection ends.
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[1].Local))
			s.Ok(err)
			s.Ok(conn.SetDeadline(time.Now().Add(patience)))
			n, err := io.Copy(io.Discard, conn)
			s.truth(n == 0 && !errors.Is(err, context.DeadlineExceeded), "%d bytes, %v", n, err)
			conn.Close()
			close(stop)
			<-ended
		})
	}
}
