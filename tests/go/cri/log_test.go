package cri

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLog(t *testing.T) {
	s := begin(t)
	before := time.Now()
	c := s.pod().run("echo first; echo second >&2; echo; printf 'no end'")
	c.ended()
	lines := s.read(c.logFile())
	var stdout []string
	for at, l := range lines {
		s.truth(!l.at.Before(before) && !l.at.After(time.Now()), "time of %v", l)
		if at > 0 && lines[at-1].stream == l.stream {
			s.truth(!l.at.Before(lines[at-1].at), "times go back: %v", lines)
		}
		if l.stream == "stdout" {
			stdout = append(stdout, l.tag+" "+l.text)
		}
	}
	s.equal("standard output", fmt.Sprintf("%q", stdout), fmt.Sprintf("%q", []string{"F first", "F ", "P no end"}))
	s.equal("standard error", s.text(c.logFile(), "stderr"), "second\n")
}

// A line that is longer than the limit comes in parts, and none of it is lost.
func TestLongLines(t *testing.T) {
	s := begin(t)
	c := s.pod().run("head -c 50000 /dev/zero | tr '\\0' x; echo; echo after")
	c.ended()
	lines := s.read(c.logFile())
	s.truth(len(lines) > 2 && lines[0].tag == "P", "%d lines", len(lines))
	s.equal("text", s.text(c.logFile(), "stdout"), strings.Repeat("x", 50000)+"\nafter\n")
}

func TestReopenContainerLog(t *testing.T) {
	s := begin(t)
	flags := s.dir + "/flags"
	s.ok(os.MkdirAll(flags, 0o755))
	c := s.pod().run("i=0; until [ -e /flags/stop ]; do echo line $i; i=$((i+1)); done; echo end $i", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/flags", HostPath: flags}}
	})
	filled := func() {
		s.eventually("output arrives in the log", func() (bool, any) {
			info, err := os.Stat(c.logFile())
			return err == nil && info.Size() > 0, err
		})
	}
	var files []string
	for turn := range 5 {
		filled()
		moved := fmt.Sprintf("%s.%d", c.logFile(), turn)
		s.ok(os.Rename(c.logFile(), moved))
		files = append(files, moved)
		_, err := runtime.ReopenContainerLog(s.ctx, &cri.ReopenContainerLogRequest{ContainerId: c.id})
		s.ok(err)
		_, err = os.Stat(c.logFile())
		s.ok(err)
	}
	filled()
	s.ok(os.WriteFile(flags+"/stop", nil, 0o644))
	c.ended()
	var all strings.Builder
	for _, file := range append(files, c.logFile()) {
		all.WriteString(s.text(file, "stdout"))
	}
	next := 0
	for text := range strings.Lines(all.String()) {
		kind, number, _ := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
		got, err := strconv.Atoi(number)
		if err != nil || got != next || (kind != "line" && kind != "end") {
			s.Fatalf("wanted line %d, got %q", next, text)
		}
		if kind == "end" {
			break
		}
		next++
	}
	s.truth(next > 0 && strings.HasSuffix(all.String(), fmt.Sprintf("end %d\n", next)), "the end is missing after %d lines", next)

	_, err := runtime.ReopenContainerLog(s.ctx, &cri.ReopenContainerLogRequest{ContainerId: c.id})
	s.refused("the log of a container that has ended", err, codes.FailedPrecondition)
	_, err = runtime.ReopenContainerLog(s.ctx, &cri.ReopenContainerLogRequest{ContainerId: "unknown"})
	s.refused("the log of an unknown container", err, codes.NotFound)
}

// With a terminal both streams are one, and lines end as a terminal ends them.
func TestTerminalLog(t *testing.T) {
	s := begin(t)
	c := s.pod().run("tty; echo out; echo err >&2", func(c *cri.ContainerConfig) { c.Tty = true })
	s.equal("exit code", c.ended().ExitCode, 0)
	text := s.text(c.logFile(), "stdout")
	s.has(text, "/dev/")
	s.has(strings.ReplaceAll(text, "\r", ""), "out\nerr\n")
}
