package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (c *container) logFile() string {
	return filepath.Join(c.pod.config.LogDirectory, c.config.LogPath)
}

// line is one of a log.
type line struct {
	at     time.Time
	stream string
	tag    string
	text   string
}

// read parses a log; every line must be whole and of the format.
func (s *story) read(file string) []line {
	s.Helper()
	data, err := os.ReadFile(file)
	s.Ok(err)
	var lines []line
	for text := range strings.Lines(string(data)) {
		text, whole := strings.CutSuffix(text, "\n")
		if !whole {
			break // still being written
		}
		parts := strings.SplitN(text, " ", 4)
		if len(parts) != 4 {
			s.Fatalf("not of the format: %q", text)
		}
		at, err := time.Parse(time.RFC3339Nano, parts[0])
		s.Ok(err)
		if (parts[1] != "stdout" && parts[1] != "stderr") || (parts[2] != "F" && parts[2] != "P") {
			s.Fatalf("not of the format: %q", text)
		}
		lines = append(lines, line{at, parts[1], parts[2], parts[3]})
	}
	return lines
}

// text is what a log holds of a stream, partial lines joined.
func (s *story) text(file, stream string) string {
	s.Helper()
	var all strings.Builder
	for _, l := range s.read(file) {
		if l.stream != stream {
			continue
		}
		all.WriteString(l.text)
		if l.tag == "F" {
			all.WriteByte('\n')
		}
	}
	return all.String()
}

// says waits until the container's log has a text.
func (c *container) says(want string) {
	c.Helper()
	c.Eventually("the log says "+want, func() (bool, any) {
		text := c.text(c.logFile(), "stdout")
		return strings.Contains(text, want), text
	})
}

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
	s.Equal("standard output", fmt.Sprintf("%q", stdout), fmt.Sprintf("%q", []string{"F first", "F ", "P no end"}))
	s.Equal("standard error", s.text(c.logFile(), "stderr"), "second\n")
}

// A line that is longer than the limit comes in parts, and none of it is lost.
func TestLongLines(t *testing.T) {
	s := begin(t)
	c := s.pod().run("head -c 50000 /dev/zero | tr '\\0' x; echo; echo after")
	c.ended()
	lines := s.read(c.logFile())
	s.truth(len(lines) > 2 && lines[0].tag == "P", "%d lines", len(lines))
	s.Equal("text", s.text(c.logFile(), "stdout"), strings.Repeat("x", 50000)+"\nafter\n")
}

func TestReopenContainerLog(t *testing.T) {
	s := begin(t)
	flags := s.dir + "/flags"
	s.Ok(os.MkdirAll(flags, 0o755))
	c := s.pod().run("i=0; until [ -e /flags/stop ]; do echo line $i; i=$((i+1)); done; echo end $i", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/flags", HostPath: flags}}
	})
	filled := func() {
		s.Eventually("output arrives in the log", func() (bool, any) {
			info, err := os.Stat(c.logFile())
			return err == nil && info.Size() > 0, err
		})
	}
	var files []string
	for turn := range 5 {
		filled()
		moved := fmt.Sprintf("%s.%d", c.logFile(), turn)
		s.Ok(os.Rename(c.logFile(), moved))
		files = append(files, moved)
		_, err := runtime.ReopenContainerLog(s.ctx, &cri.ReopenContainerLogRequest{ContainerId: c.id})
		s.Ok(err)
		_, err = os.Stat(c.logFile())
		s.Ok(err)
	}
	filled()
	s.Ok(os.WriteFile(flags+"/stop", nil, 0o644))
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
	s.Equal("exit code", c.ended().ExitCode, 0)
	text := s.text(c.logFile(), "stdout")
	s.Has(text, "/dev/")
	s.Has(strings.ReplaceAll(text, "\r", ""), "out\nerr\n")
}
