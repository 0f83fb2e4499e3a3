package crictl

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLogs(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run("for i in 1 2 3 4 5; do echo out $i; done; echo err >&2", nil)
	c.ended()
	s.Eventually("the log is whole", func() (bool, any) {
		a := s.try("logs", c.id)
		return strings.Count(a.out, "\n") == 5 && a.err == "err\n", a
	})
	s.Equal("all", s.do("logs", c.id), "out 1\nout 2\nout 3\nout 4\nout 5")
	s.Equal("one stream", s.try("logs", "--stream", "stderr", c.id).err, "err\n")
	s.Equal("one stream", s.do("logs", "--stream", "stderr", c.id), "")
	tail := s.try("logs", "--tail", "2", c.id)
	s.Equal("the last lines of both", strings.Count(tail.out+tail.err, "\n"), 2)
	s.Equal("none", s.do("logs", "--tail", "0", c.id), "")
	few := s.try("logs", "--limit-bytes", "7", c.id)
	s.Equal("so many bytes of both", len(few.out+few.err), 7)
	stamped := s.do("logs", "--timestamps", "--stream", "stdout", c.id)
	for line := range strings.Lines(stamped) {
		_, err := time.Parse(time.RFC3339Nano, strings.Fields(line)[0])
		s.Ok(err)
	}
	s.Equal("since an hour", s.do("logs", "--since", "1h", c.id), s.do("logs", c.id))
	s.Equal("since later", s.do("logs", "--since", time.Now().Add(time.Hour).Format(time.RFC3339), c.id), "")
	s.fails("mutually exclusive", "logs", "--tail", "1", "--stream", "stdout", c.id)
	s.fails("NotFound", "logs", "unknown")
	silent := p.run(idle, object{"log_path": ""})
	s.fails("has not set log path", "logs", silent.id)
}

// Since a moment between two lines: the time on the second is where to begin.
func TestLogsSince(t *testing.T) {
	s := begin(t)
	c := s.pod().run("echo first; echo ready; until [ -e /go ]; do sleep 0.02; done; echo second; exec sleep 1000", nil)
	c.says("ready")
	between := time.Now()
	c.sh("touch /go")
	c.says("second")
	s.Equal("since then", s.do("logs", "--since", fmt.Sprintf("%d.%09d", between.Unix(), between.Nanosecond()), c.id), "second")
}

// Whoever follows gets each line as it comes, also past a rotation, and ends with the container.
func TestLogsFollow(t *testing.T) {
	s := begin(t)
	c := s.pod().run("while read x; do echo got $x; [ $x != end ] || exit 0; done", object{"stdin": true, "stdin_once": false})
	cmd := s.command("logs", "--follow", c.id)
	out, err := cmd.StdoutPipe()
	s.Ok(err)
	s.Ok(cmd.Start())
	lines := bufio.NewReader(out)
	attach := s.command("attach", "-i", c.id)
	in, err := attach.StdinPipe()
	s.Ok(err)
	s.Ok(attach.Start())
	say := func(word string) {
		s.Helper()
		fmt.Fprintln(in, word)
		line, err := lines.ReadString('\n')
		s.Equal("line", fmt.Sprint(line, err), "got "+word+"\n<nil>")
	}
	say("one")
	say("two")
	// As the kubelet rotates.
	s.Ok(os.Rename(c.log, c.log+".1"))
	s.Equal("reopened", s.do("logs", "--reopen", c.id), "")
	_, err = os.Stat(c.log)
	s.Ok(err)
	say("three")
	say("end")
	_ = attach.Wait()
	_ = cmd.Wait()
	s.Equal("exit code", cmd.ProcessState.ExitCode(), 0)
	s.Equal("after the rotation", s.do("logs", c.id), "got three\ngot end")
}

// The attempt before is found by its log's name.
func TestLogsPrevious(t *testing.T) {
	s := begin(t)
	p := s.pod()
	s.Ok(os.Mkdir(p.logs+"/again", 0o755))
	attempt := func(n int) *container {
		return p.run(fmt.Sprintf("echo attempt %d", n), object{"metadata": object{"name": "again", "attempt": n}, "log_path": fmt.Sprintf("again/%d.log", n)})
	}
	first := attempt(0)
	first.ended()
	second := attempt(1)
	second.ended()
	s.Equal("this one", s.do("logs", second.id), "attempt 1")
	s.Equal("the one before", s.do("logs", "--previous", second.id), "attempt 0")
	s.fails("not found", "logs", "--previous", first.id)
}
