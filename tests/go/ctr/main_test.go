// Package ctr drives a daemon with containerd's unmodified ctr, as its users do. It passes against a stock containerd
// as well, which proves the tests.
//
// WINDLASS_ADDRESS is the daemon's socket; RIG a directory whose bin holds ctr; REGISTRY a plain HTTP registry that
// holds library/busybox:latest (default 127.0.0.1:5000). Images under public names come from HTTPS_IMAGE (default
// ghcr.io/containerd/busybox:1.36), reached with the CA bundle in SSL_CERT_FILE.
package ctr

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"windlass.dev/tests/go/check"
)

var (
	address   = os.Getenv("WINDLASS_ADDRESS")
	binary    = filepath.Join(os.Getenv("RIG"), "bin", "ctr")
	registry  = check.Or("REGISTRY", "127.0.0.1:5000")
	httpsName = check.Or("HTTPS_IMAGE", "ghcr.io/containerd/busybox:1.36")
	image     = registry + "/library/busybox:latest"
	run       = fmt.Sprintf("%d", os.Getpid())
	counter   atomic.Int64
)

func TestMain(m *testing.M) {
	if address == "" || os.Getenv("RIG") == "" {
		fmt.Fprintln(os.Stderr, "set WINDLASS_ADDRESS to the daemon's socket and RIG to the directory whose bin holds ctr")
		os.Exit(2)
	}
	if _, err := os.Stat(binary); err != nil {
		fmt.Fprintf(os.Stderr, "ctr is missing: %v\n", err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// space is a namespace of one test, emptied and removed at its end.
type space struct {
	*testing.T
	name string
}

func open(t *testing.T) *space {
	t.Helper()
	s := &space{T: t, name: fmt.Sprintf("ctr-%s-%d", run, counter.Add(1))}
	t.Cleanup(s.empty)
	return s
}

// withImage is a namespace that holds the busybox image.
func withImage(t *testing.T) *space {
	t.Helper()
	s := open(t)
	s.ok("image", "pull", "--plain-http", image)
	return s
}

func (s *space) empty() {
	for _, id := range strings.Fields(s.maybe("task", "ls", "-q")) {
		s.maybe("task", "delete", "-f", id)
	}
	for _, id := range strings.Fields(s.maybe("container", "ls", "-q")) {
		s.maybe("container", "delete", id)
	}
	for _, name := range strings.Fields(s.maybe("image", "ls", "-q")) {
		s.maybe("image", "rm", "--sync", name)
	}
	for _, id := range strings.Fields(s.maybe("leases", "ls", "-q")) {
		s.maybe("leases", "delete", "--sync", id)
	}
	left := s.maybe("snapshot", "ls")
	for _, line := range strings.Split(left, "\n")[min(1, strings.Count(left, "\n")):] {
		if f := strings.Fields(line); len(f) > 0 {
			s.maybe("snapshot", "rm", f[0])
		}
	}
	for _, digest := range strings.Fields(s.maybe("content", "ls", "-q")) {
		s.maybe("content", "rm", digest)
	}
	s.maybe("namespace", "rm", s.name)
}

func (s *space) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	s.Cleanup(cancel)
	return exec.CommandContext(ctx, binary, append([]string{"-a", address, "-n", s.name}, args...)...)
}

// try runs ctr and answers its standard output, standard error and exit code.
func (s *space) try(args ...string) (string, string, int) {
	s.Helper()
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exit := err.(*exec.ExitError); err != nil && !exit {
		s.Fatalf("ctr %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (s *space) maybe(args ...string) string {
	out, _, _ := s.try(args...)
	return out
}

func (s *space) ok(args ...string) string {
	s.Helper()
	out, errs, code := s.try(args...)
	if code != 0 {
		s.Fatalf("ctr %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// fails expects a failure whose error holds want.
func (s *space) fails(want string, args ...string) {
	s.Helper()
	out, errs, code := s.try(args...)
	if code == 0 || !strings.Contains(errs, want) {
		s.Fatalf("ctr %s: exit code %d, wanted a failure with %q\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
}

func (s *space) has(text, want string) {
	s.Helper()
	if !strings.Contains(text, want) {
		s.Fatalf("%q is missing in:\n%s", want, text)
	}
}

func (s *space) hasNot(text, unwanted string) {
	s.Helper()
	if strings.Contains(text, unwanted) {
		s.Fatalf("%q is not wanted in:\n%s", unwanted, text)
	}
}

// equal compares after trimming.
func (s *space) equal(got, want string) {
	s.Helper()
	if strings.TrimSpace(got) != want {
		s.Fatalf("got %q, want %q", got, want)
	}
}

// eventually asks again, without luck: every round is a call that the daemon answers.
func (s *space) eventually(what string, done func() bool) {
	s.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			s.Fatalf("never happened: %s", what)
		}
	}
}

// detached starts a container that sleeps and answers its id; its task is ended with the test.
func (s *space) detached(args ...string) string {
	s.Helper()
	id := fmt.Sprintf("c%d", counter.Add(1))
	s.ok(append(append([]string{"run", "-d"}, args...), image, id, "sleep", "1000")...)
	return id
}

func (s *space) kill(id string) {
	s.Helper()
	s.ok("task", "kill", "-s", "KILL", id)
	s.eventually("task "+id+" stops", func() bool { return strings.Contains(s.ok("task", "ls"), "STOPPED") })
}
