package streaming

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// transport makes an executor for a URL.
type transport struct {
	name string
	make func(*rest.Config, *url.URL) (remotecommand.Executor, error)
	// input: whether the end of input reaches the command; status: whether exit codes come as numbers.
	input, status bool
}

func overSPDY(protocol string, input, status bool) transport {
	return transport{"spdy " + protocol, func(config *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		rt, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutorForProtocols(rt, upgrader, "POST", u, protocol)
	}, input, status}
}

func overWebSocket(protocol string, input, status bool) transport {
	return transport{"websocket " + protocol, func(config *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(config, "GET", u.String(), protocol)
	}, input, status}
}

var transports = []transport{
	{"spdy as kubectl", func(config *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(config, "POST", u)
	}, true, true},
	overSPDY("v4.channel.k8s.io", true, true),
	overSPDY("v3.channel.k8s.io", true, false),
	overSPDY("v2.channel.k8s.io", true, false),
	{"websocket as kubectl", func(config *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(config, "GET", u.String())
	}, true, true},
	{"fallback as kubectl", func(config *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		first, err := remotecommand.NewWebSocketExecutor(config, "GET", u.String())
		if err != nil {
			return nil, err
		}
		second, err := remotecommand.NewSPDYExecutor(config, "POST", u)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewFallbackExecutor(first, second, httpstream.IsUpgradeFailure)
	}, true, true},
	overWebSocket("v4.channel.k8s.io", false, true),
	overWebSocket("v3.channel.k8s.io", false, false),
	overWebSocket("v2.channel.k8s.io", false, false),
}

// everywhere runs a test over each transport, plain and with TLS.
func everywhere(t *testing.T, test func(*testing.T, *server, transport)) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			var args []string
			if tls {
				args = append([]string{"--tls"}, certificate(t)...)
			}
			s := start(t, args...)
			for _, way := range transports {
				t.Run(way.name, func(t *testing.T) {
					s.t = t
					test(t, s, way)
				})
			}
		})
	}
}

func (s *server) stream(way transport, u *url.URL, options remotecommand.StreamOptions) error {
	s.t.Helper()
	executor, err := way.make(s.config, u)
	check(s.t, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

func TestOutput(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		var stdout, stderr bytes.Buffer
		err := s.stream(way, s.command("both"), remotecommand.StreamOptions{
			Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
		})
		check(t, err)
		if stdout.String() != "to stdout" || stderr.String() != "to stderr" {
			t.Fatalf("stdout %q, stderr %q", &stdout, &stderr)
		}
	})
}

func TestInput(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		if !way.input {
			t.Skip("this protocol cannot tell the end of input")
		}
		const size = 8 << 20
		sent, got := sha256.New(), sha256.New()
		err := s.stream(way, s.command("cat"), remotecommand.StreamOptions{
			Stdin: io.TeeReader(pattern(size), sent), Stdout: got, Stderr: io.Discard,
		})
		check(t, err)
		if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Fatal("what came back is not what was sent")
		}
	})
}

func TestMuchOutput(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		var got slow
		err := s.stream(way, s.command("flood", "20000000"), remotecommand.StreamOptions{
			Stdout: &got, Stderr: io.Discard, Stdin: strings.NewReader(""),
		})
		check(t, err)
		if got.bytes != 20_000_000 {
			t.Fatalf("%d bytes", got.bytes)
		}
	})
}

// slow counts, and rests once.
type slow struct{ bytes int }

func (s *slow) Write(p []byte) (int, error) {
	if s.bytes == 0 {
		time.Sleep(200 * time.Millisecond)
	}
	s.bytes += len(p)
	return len(p), nil
}

func TestExitCode(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		for _, code := range []int{1, 7, 255} {
			err := s.stream(way, s.command("exit", fmt.Sprint(code)), remotecommand.StreamOptions{
				Stdout: io.Discard, Stderr: io.Discard, Stdin: strings.NewReader(""),
			})
			var exit exec.CodeExitError
			switch {
			case way.status && !errors.As(err, &exit):
				t.Fatalf("want an exit code, got %v", err)
			case way.status && exit.Code != code:
				t.Fatalf("exit code %d, want %d", exit.Code, code)
			case !way.status && (err == nil || !strings.HasSuffix(err.Error(), fmt.Sprintf("exit code %d", code))):
				t.Fatalf("got %v", err)
			}
		}
		err := s.stream(way, s.command("exit", "0"), remotecommand.StreamOptions{
			Stdout: io.Discard, Stderr: io.Discard, Stdin: strings.NewReader(""),
		})
		check(t, err)
	})
}

func TestFailure(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		err := s.stream(way, s.command("no-such-command"), remotecommand.StreamOptions{
			Stdout: io.Discard, Stderr: io.Discard, Stdin: strings.NewReader(""),
		})
		if err == nil || !strings.Contains(err.Error(), "executable file not found") {
			t.Fatalf("got %v", err)
		}
	})
}

func TestAttach(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		if !way.input {
			t.Skip("this protocol cannot tell the end of input")
		}
		var stdout bytes.Buffer
		u := s.url("attach", streams{Container: "c", Stdin: true, Stdout: true})
		check(t, s.stream(way, u, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &stdout}))
		if stdout.String() != "hello" {
			t.Fatalf("stdout %q", &stdout)
		}
		u = s.url("attach", streams{Container: "missing", Stdin: true, Stdout: true})
		err := s.stream(way, u, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "no such container") {
			t.Fatalf("got %v", err)
		}
	})
}

// sizes is a terminal that is resized.
type sizes []remotecommand.TerminalSize

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(*s) == 0 {
		return nil
	}
	size := (*s)[0]
	*s = (*s)[1:]
	return &size
}

func TestResize(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		if strings.Contains(way.name, "v2.") {
			t.Skip("this protocol has no sizes")
		}
		var stdout bytes.Buffer
		u := s.url("exec", streams{Container: "c", Cmd: []string{"sizes", "2"}, TTY: true, Stdin: true, Stdout: true})
		input, hold := io.Pipe()
		defer hold.Close()
		err := s.stream(way, u, remotecommand.StreamOptions{
			Stdin: input, Stdout: &stdout, Tty: true,
			TerminalSizeQueue: &sizes{{Width: 80, Height: 24}, {Width: 120, Height: 40}},
		})
		check(t, err)
		if stdout.String() != "80x24\n120x40\n" {
			t.Fatalf("stdout %q", &stdout)
		}
	})
}

// A client that goes away is told to the command, and nothing stays behind on the server.
func TestVanishedClient(t *testing.T) {
	s := start(t)
	base := s.descriptors()
	told := 0
	for round := range 20 {
		way := transports[round%len(transports)]
		input, hold := io.Pipe()
		ctx, cancel := context.WithCancel(context.Background())
		executor, err := way.make(s.config, s.command("flood", "100000000000"))
		check(t, err)
		ended := make(chan error, 1)
		go func() {
			ended <- executor.StreamWithContext(ctx, remotecommand.StreamOptions{
				Stdin: input, Stdout: &cancelling{cancel: cancel}, Stderr: io.Discard,
			})
		}()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: %v", way.name, err)
		}
		hold.Close()
		told++
		s.ask("told", told)
	}
	deadline := time.Now().Add(patience)
	for now := s.descriptors(); now > base; now = s.descriptors() {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors before, %d after", base, now)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// cancelling gives up at the first byte.
type cancelling struct{ cancel context.CancelFunc }

func (c *cancelling) Write(p []byte) (int, error) {
	c.cancel()
	return len(p), nil
}

// A command that ends at once must not end the connection before the client has all of its streams: the one of sizes is
// its last, and it waits for that one's answer before it looks at any other.
func TestQuickCommandOnATerminal(t *testing.T) {
	everywhere(t, func(t *testing.T, s *server, way transport) {
		for range 50 {
			u := s.url("exec", streams{Container: "c", Cmd: []string{"exit", "0"}, TTY: true, Stdin: true, Stdout: true})
			begun := time.Now()
			err := s.stream(way, u, remotecommand.StreamOptions{
				Stdin: strings.NewReader(""), Stdout: io.Discard, Tty: true, TerminalSizeQueue: &sizes{},
			})
			if err != nil {
				t.Fatalf("after %v: %v", time.Since(begun), err)
			}
		}
	})
}
