// Package streaming drives the streaming server with the client that Kubernetes itself uses: remote commands over SPDY
// and WebSocket, and port forward over SPDY, plain and inside a WebSocket. STREAMING_ECHO names the example server
// (cri-plugin/streaming/examples/echo.rs).
package streaming

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// patience is how long a test waits for anything.
const patience = 20 * time.Second

// server is a running example server.
type server struct {
	t       *testing.T
	control net.Conn
	lines   *bufio.Reader
	config  *rest.Config
}

// streams is what is asked of a command.
type streams struct {
	Container string   `json:"container"`
	Cmd       []string `json:"cmd,omitempty"`
	TTY       bool     `json:"tty"`
	Stdin     bool     `json:"stdin"`
	Stdout    bool     `json:"stdout"`
	Stderr    bool     `json:"stderr"`
}

func start(t *testing.T, args ...string) *server {
	t.Helper()
	program := os.Getenv("STREAMING_ECHO")
	if program == "" {
		t.Fatal("STREAMING_ECHO does not name the example server: cargo build --release -p windlass-streaming --examples")
	}
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		check(t, cmd.Wait())
	})
	address, err := bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	control, err := net.Dial("tcp", strings.TrimSpace(address))
	check(t, err)
	t.Cleanup(func() { control.Close() })
	config := &rest.Config{Host: "127.0.0.1", TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	return &server{t: t, control: control, lines: bufio.NewReader(control), config: config}
}

// ask gives an order and returns its answer.
func (s *server) ask(order string, value any) string {
	s.t.Helper()
	line, err := json.Marshal(map[string]any{order: value})
	check(s.t, err)
	check(s.t, s.control.SetDeadline(time.Now().Add(patience)))
	_, err = fmt.Fprintf(s.control, "%s\n", line)
	check(s.t, err)
	answer, err := s.lines.ReadString('\n')
	check(s.t, err)
	answer = strings.TrimSpace(answer)
	if strings.HasPrefix(answer, "error: ") {
		s.t.Fatal(answer)
	}
	return answer
}

func (s *server) url(order string, value any) *url.URL {
	s.t.Helper()
	u, err := url.Parse(s.ask(order, value))
	check(s.t, err)
	return u
}

// command is a URL for a command with all streams but the terminal's.
func (s *server) command(words ...string) *url.URL {
	s.t.Helper()
	return s.url("exec", streams{Container: "c", Cmd: words, Stdin: true, Stdout: true, Stderr: true})
}

// descriptors waits until no handler runs and returns how many descriptors the server has open.
func (s *server) descriptors() int {
	s.t.Helper()
	count, err := strconv.Atoi(s.ask("idle", struct{}{}))
	check(s.t, err)
	return count
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pattern is a reader of so many bytes that differ from their neighbours.
func pattern(bytes int64) io.Reader {
	return io.LimitReader(&counter{}, bytes)
}

type counter struct{ next byte }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.next
		c.next = c.next*31 + 7
	}
	return len(p), nil
}
