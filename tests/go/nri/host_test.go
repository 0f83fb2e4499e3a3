// Package nri drives a host of NRI plugins with plugins made of NRI's own unmodified stub.
//
// NRI_HOST is the host: the example `host` of windlass-nri.
package nri

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/log"
)

const limit = 20 * time.Second

func TestMain(m *testing.M) {
	log.Set(quiet{})
	if os.Getenv("NRI_PLUGIN_SOCKET") != "" {
		installed()
		return
	}
	if os.Getenv("NRI_HOST") == "" {
		fmt.Fprintln(os.Stderr, "NRI_HOST must name the host")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

type object = map[string]any

// host is a running host and what it says.
type host struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	socket string
	dir    string
	asked  chan object

	mu      sync.Mutex
	next    int
	waiting map[int]chan object
}

// start runs a host with a configuration of its own and waits until it serves.
func start(t *testing.T, config object) *host {
	t.Helper()
	return startIn(t, t.TempDir(), config)
}

func startIn(t *testing.T, dir string, config object) *host {
	t.Helper()
	h := &host{t: t, dir: dir, socket: filepath.Join(dir, "run", "nri.sock"), asked: make(chan object, 16),
		waiting: map[int]chan object{}}
	all := object{"socket_path": h.socket, "plugin_path": filepath.Join(dir, "plugins"),
		"plugin_config_path": filepath.Join(dir, "conf.d"), "plugin_request_timeout": "1s",
		"plugin_registration_timeout": "1s"}
	for k, v := range config {
		all[k] = v
	}
	text, err := json.Marshal(all)
	must(t, err)
	h.cmd = exec.Command(os.Getenv("NRI_HOST"), string(text))
	h.cmd.Stderr = os.Stderr
	h.in, err = h.cmd.StdinPipe()
	must(t, err)
	out, err := h.cmd.StdoutPipe()
	must(t, err)
	ready := make(chan object, 1)
	h.waiting[0] = ready
	must(t, h.cmd.Start())
	go h.read(out)
	t.Cleanup(h.stop)
	if answer := wait(t, ready, "the host is ready"); answer["error"] != nil {
		t.Fatalf("host: %v", answer["error"])
	}
	return h
}

func (h *host) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var line object
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			panic(err)
		}
		if asked, ok := line["asked"]; ok {
			h.asked <- asked.(object)
			continue
		}
		h.mu.Lock()
		id := int(line["id"].(float64))
		c := h.waiting[id]
		delete(h.waiting, id)
		h.mu.Unlock()
		if c != nil {
			c <- line
		}
	}
}

// stop ends the host as a daemon ends; it may be called twice.
func (h *host) stop() {
	h.in.Close()
	done := make(chan error, 1)
	go func() { done <- h.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			h.t.Errorf("host: %v", err)
		}
	case <-time.After(limit):
		h.cmd.Process.Kill()
		h.t.Error("the host does not end")
	}
}

// begin has an operation done and answers where its answer comes.
func (h *host) begin(op string, args object) chan object {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	command := object{"id": h.next, "op": op}
	for k, v := range args {
		command[k] = v
	}
	c := make(chan object, 1)
	h.waiting[h.next] = c
	text, err := json.Marshal(command)
	must(h.t, err)
	_, err = h.in.Write(append(text, '\n'))
	must(h.t, err)
	return c
}

func (h *host) try(op string, args object) (any, string) {
	h.t.Helper()
	answer := wait(h.t, h.begin(op, args), op)
	if e, ok := answer["error"]; ok {
		return nil, e.(string)
	}
	return answer["ok"], ""
}

func (h *host) do(op string, args object) any {
	h.t.Helper()
	ok, err := h.try(op, args)
	if err != "" {
		h.t.Fatalf("%s: %s", op, err)
	}
	return ok
}

func (h *host) plugins() string {
	h.t.Helper()
	var names []string
	for _, name := range h.do("plugins", nil).([]any) {
		names = append(names, name.(string))
	}
	return strings.Join(names, " ")
}

// gone waits until just these plugins are left.
func (h *host) left(want string) {
	h.t.Helper()
	end := time.Now().Add(limit)
	for h.plugins() != want {
		if time.Now().After(end) {
			h.t.Fatalf("plugins are %q, not %q", h.plugins(), want)
		}
	}
}

func wait[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(limit):
		t.Fatalf("waited for: %s", what)
		panic("unreachable")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	must(t, err)
	w, err := json.Marshal(want)
	must(t, err)
	if string(g) != string(w) {
		t.Errorf("%s is %s, not %s", what, g, w)
	}
}

// at follows a path of keys and indices.
func at(t *testing.T, v any, path string) any {
	t.Helper()
	for _, key := range strings.Split(path, "/") {
		switch x := v.(type) {
		case object:
			v = x[key]
		case []any:
			var i int
			fmt.Sscan(key, &i)
			if i >= len(x) {
				t.Fatalf("%s: no %d in %v", path, i, x)
			}
			v = x[i]
		default:
			t.Fatalf("%s: %s of %v", path, key, v)
		}
	}
	return v
}
