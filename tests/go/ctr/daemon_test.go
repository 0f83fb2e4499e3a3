package ctr

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlugins(t *testing.T) {
	s := open(t)
	lines := strings.Split(strings.TrimSpace(s.ok("plugins", "ls")), "\n")
	if len(lines) < 20 {
		t.Fatalf("only %d plugins", len(lines))
	}
	for _, line := range lines[1:] {
		if f := strings.Fields(line); f[len(f)-1] == "error" {
			t.Errorf("in error: %s", line)
		}
	}
	s.has(s.ok("plugins", "ls", "-d", "id==overlayfs"), "io.containerd.snapshotter.v1")
}

func TestVersion(t *testing.T) {
	s := open(t)
	s.has(s.ok("version"), "UUID")
}

func TestNamespaces(t *testing.T) {
	s := open(t)
	s.ok("namespace", "create", s.name, "a=b")
	s.has(s.ok("namespace", "ls"), "a=b")
	s.fails("already exists", "namespace", "create", s.name)
	s.ok("namespace", "label", s.name, "c=d")
	s.has(s.ok("namespace", "ls"), "c=d")
	s.ok("image", "pull", "--plain-http", image)
	s.fails("must be empty", "namespace", "rm", s.name)
	s.ok("image", "rm", "--sync", image)
	for _, digest := range strings.Fields(s.ok("content", "ls", "-q")) {
		s.ok("content", "rm", digest)
	}
	s.ok("namespace", "rm", s.name)
	s.hasNot(s.ok("namespace", "ls", "-q"), s.name)
	s.fails("", "namespace", "create", "../bad")
}

func TestLeases(t *testing.T) {
	s := open(t)
	s.ok("leases", "create", "--id", "l1", "--expires", "1h", "a=b")
	s.has(s.ok("leases", "ls"), "l1")
	s.fails("already exists", "leases", "create", "--id", "l1")
	s.ok("leases", "delete", "--sync", "l1")
	s.hasNot(s.ok("leases", "ls", "-q"), "l1")
	s.fails("not found", "leases", "delete", "l1")
}

func TestSnapshots(t *testing.T) {
	s := withImage(t)
	parent := ""
	for _, line := range strings.Split(s.ok("snapshot", "ls"), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[len(f)-1] == "Committed" {
			parent = f[0]
		}
	}
	s.has(s.ok("snapshot", "tree"), parent)
	s.has(s.ok("snapshot", "info", parent), "Committed")
	s.has(s.ok("snapshot", "usage", parent), parent)
	target := t.TempDir()
	s.has(s.ok("snapshot", "prepare", "--target", target, "active", parent), target)
	s.has(s.ok("snapshot", "view", "--target", target, "view", parent), "mount")
	s.has(s.ok("snapshot", "mounts", target, "active"), "overlay")
	s.fails("already exists", "snapshot", "prepare", "active", parent)
	s.ok("snapshot", "label", "active", "k=v")
	s.has(s.ok("snapshot", "info", "active"), `"k": "v"`)

	mounts := filepath.Join(target, "m")
	if err := os.Mkdir(mounts, 0o755); err != nil {
		t.Fatal(err)
	}
	s.ok("snapshot", "commit", "done", "active")
	s.has(s.ok("snapshot", "info", "done"), "Committed")
	s.ok("snapshot", "diff", "done", parent)
	s.maybe("snapshot", "rm", "view") // a view without a lease may have been collected
	s.ok("snapshot", "rm", "done")
	s.fails("not found", "snapshot", "info", "done")
	fresh := open(t)
	fresh.fails("not found", "snapshot", "prepare", "x", "no-such-parent")
}

func TestSnapshotUnpack(t *testing.T) {
	s := open(t)
	s.ok("content", "fetch", "--plain-http", image)
	s.hasNot(s.ok("snapshot", "ls"), "Committed")
	digest := ""
	for _, line := range strings.Split(s.ok("image", "ls"), "\n") {
		for _, f := range strings.Fields(line) {
			if strings.HasPrefix(line, image) && strings.HasPrefix(f, "sha256:") {
				digest = f
			}
		}
	}
	s.ok("snapshot", "unpack", digest)
	s.has(s.ok("snapshot", "ls"), "Committed")
}
