package crictl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"windlass.dev/tests/go/check"
)

var counter atomic.Int64

// idle is a script that lives until it is told to end.
const idle = "trap 'exit 0' TERM; sleep 1000 & wait"

type object = map[string]any

// story is one test: its folder, and the label that everything it makes carries.
type story struct {
	check.T
	dir  string
	name string
}

// begin is a test beside others.
func begin(t *testing.T) *story {
	t.Helper()
	t.Parallel()
	return alone(t)
}

// alone is a test that has the daemon to itself.
func alone(t *testing.T) *story {
	t.Helper()
	s := &story{check.T{T: t, Patience: patience}, t.TempDir(), fmt.Sprintf("crictl-%s-%d", run, counter.Add(1))}
	t.Cleanup(s.removeCgroups)
	return s
}

// removeCgroups removes the group of a story's pods; who made it is the kubelet, elsewhere.
func (s *story) removeCgroups() {
	for _, root := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		groups, _ := filepath.Glob(root + s.name)
		for _, group := range groups {
			if err := syscall.Rmdir(group); err != nil && err != syscall.ENOENT && err != syscall.ENOTDIR {
				s.Errorf("something is left in %s: %v", group, err)
			}
		}
	}
}

func (s *story) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	s.Cleanup(cancel)
	return command(ctx, args...)
}

// verb is the command among the arguments: what follows global options, of which none here has a value.
func verb(args []string) string {
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			return arg
		}
	}
	return ""
}

// answer is what a run of crictl left.
type answer struct {
	out, err string
	code     int
}

func (s *story) finish(cmd *exec.Cmd) answer {
	s.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exit := err.(*exec.ExitError); err != nil && !exit {
		s.Fatalf("%s: %v", cmd, err)
	}
	return answer{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (s *story) try(args ...string) answer {
	s.Helper()
	return s.finish(s.command(args...))
}

// do expects success, and answers the output without the last newlines.
func (s *story) do(args ...string) string {
	s.Helper()
	a := s.try(args...)
	if a.code != 0 {
		s.Fatalf("crictl %s: exit code %d\n%s%s", strings.Join(args, " "), a.code, a.out, a.err)
	}
	tried.note(verb(args))
	return strings.TrimRight(a.out, "\n")
}

// fails expects exit code 1 and an error that holds want.
func (s *story) fails(want string, args ...string) {
	s.Helper()
	a := s.try(args...)
	if a.code != 1 || !strings.Contains(a.err, want) {
		s.Fatalf("crictl %s: exit code %d, wanted a failure with %q\n%s%s", strings.Join(args, " "), a.code, want, a.out, a.err)
	}
}

// json decodes an answer.
func (s *story) json(args ...string) any {
	s.Helper()
	text := s.do(args...)
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		s.Fatalf("crictl %s: %v in %s", strings.Join(args, " "), err, text)
	}
	return value
}

// dig follows keys and indices into a decoded document.
func dig(value any, path ...any) any {
	for _, step := range path {
		switch at := step.(type) {
		case string:
			table, _ := value.(object)
			value = table[at]
		case int:
			list, _ := value.([]any)
			if at >= len(list) {
				return nil
			}
			value = list[at]
		}
	}
	return value
}

func (s *story) hasNot(text, unwanted string) {
	s.Helper()
	if strings.Contains(text, unwanted) {
		s.Fatalf("%q is not wanted in:\n%s", unwanted, text)
	}
}

// write puts a document where crictl reads it.
func (s *story) write(name string, document any) string {
	s.Helper()
	text, err := json.MarshalIndent(document, "", "  ")
	s.Ok(err)
	file := filepath.Join(s.dir, name)
	s.Ok(os.WriteFile(file, text, 0o600))
	return file
}

// pod is a pod; it goes with the test.
type pod struct {
	*story
	id, name, logs, file string
	config               object
}

// podConfig writes a pod's configuration.
func (s *story) podConfig(changes object) *pod {
	s.Helper()
	name := fmt.Sprintf("pod-%d", counter.Add(1))
	p := &pod{story: s, name: name, logs: filepath.Join(s.dir, name)}
	s.Ok(os.Mkdir(p.logs, 0o755))
	p.config = object{
		"metadata":      object{"name": name, "uid": s.name + "-" + name, "namespace": s.name, "attempt": 1},
		"hostname":      name,
		"log_directory": p.logs,
		"labels":        object{"story": s.name, "pod": name},
		"annotations":   object{"example.com/note": "a note"},
		"linux":         object{"cgroup_parent": "/" + s.name},
	}
	for key, value := range changes {
		p.config[key] = value
	}
	p.file = s.write(name+".json", p.config)
	return p
}

func (s *story) pod() *pod {
	s.Helper()
	p := s.podConfig(nil)
	p.id = s.do("runp", p.file)
	s.goes(p.id)
	return p
}

// goes removes a pod with the test, failed or not.
func (s *story) goes(id string) {
	s.Cleanup(func() {
		if a := s.try("inspectp", "-q", id); a.code != 0 {
			return
		}
		if a := s.try("rmp", "--force", id); a.code != 0 {
			s.Errorf("remove pod %s: %s%s", id, a.out, a.err)
		}
	})
}

// container is one of a pod's.
type container struct {
	*pod
	id, name, log string
}

// containerConfig writes a container's configuration and answers its name and the file.
func (p *pod) containerConfig(script string, changes object) (string, string) {
	p.Helper()
	name := fmt.Sprintf("c%d", counter.Add(1))
	config := object{
		"metadata":    object{"name": name, "attempt": 0},
		"image":       object{"image": image},
		"command":     []string{"sh", "-c"},
		"args":        []string{script},
		"labels":      (&container{pod: p, name: name}).labels(),
		"annotations": object{"example.com/note": "of a container"},
		"log_path":    name + "-0.log",
		"linux":       object{},
	}
	for key, value := range changes {
		config[key] = value
	}
	return name, p.write(name+".json", config)
}

// labels are a container's; crictl goes by the kubelet's when it looks for a pod's name.
func (c *container) labels() object {
	return object{"story": c.story.name, "container": c.name, "io.kubernetes.pod.namespace": c.story.name,
		"io.kubernetes.pod.name": c.pod.name}
}

func (p *pod) create(script string, changes object) *container {
	p.Helper()
	name, file := p.containerConfig(script, changes)
	id := p.do("create", p.id, file, p.file)
	return &container{p, id, name, filepath.Join(p.logs, name+"-0.log")}
}

func (p *pod) run(script string, changes object) *container {
	p.Helper()
	c := p.create(script, changes)
	c.Equal("what start says", c.do("start", c.id), c.id)
	return c
}

// inspect is the status of a container, decoded.
func (c *container) inspect(path ...any) any {
	c.Helper()
	return dig(c.json("inspect", c.id), path...)
}

func (c *container) ended() {
	c.Helper()
	c.Eventually("container "+c.id+" exits", func() (bool, any) {
		state := c.inspect("status", "state")
		return state == "CONTAINER_EXITED", state
	})
}

// says waits until the container's log has a text.
func (c *container) says(want string) {
	c.Helper()
	c.Eventually("the log says "+want, func() (bool, any) {
		text, err := os.ReadFile(c.log)
		return strings.Contains(string(text), want), fmt.Sprintf("%s %v", text, err)
	})
}

// sh runs a script inside and answers its output; crictl follows both streams with a newline.
func (c *container) sh(script string) string {
	c.Helper()
	return c.do("exec", "--sync", c.id, "sh", "-c", script)
}
