package crictl

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

var transports = []string{"spdy", "websocket"}

// over runs a test over each transport.
func over(t *testing.T, test func(s *story, transport string)) {
	for _, transport := range transports {
		if peer && transport == "websocket" {
			continue // its server does not know the protocol that crictl offers, v5.channel.k8s.io
		}
		t.Run(transport, func(t *testing.T) { test(begin(t), transport) })
	}
}

func TestExec(t *testing.T) {
	over(t, func(s *story, transport string) {
		p := s.pod()
		c := p.run(idle, nil)
		a := s.try("exec", "--transport", transport, c.id, "sh", "-c", "echo to stdout; echo to stderr >&2; exit 42")
		s.Equal("standard output", a.out, "to stdout\n")
		s.Has(a.err, "to stderr\n")
		s.Has(a.err, "command terminated with exit code 42")
		s.Equal("exit code of crictl itself", a.code, 1)
		s.Equal("success", s.do("exec", "-r", transport, c.id, "echo", "a  b"), "a  b")
		s.Equal("no input", s.do("exec", "-r", transport, c.id, "wc", "-c"), "0")
		big := s.do("exec", "-r", transport, c.id, "sh", "-c", "yes 0123456789abcde | head -c 8000000")
		s.Equal("much output", len(big), 7999999)
		s.fails("/no/such/program", "exec", "-r", transport, c.id, "/no/such/program")
		s.fails("NotFound", "exec", "-r", transport, "unknown", "true")
		s.Equal("ignored", s.try("exec", "-q", "-e", "-r", transport, c.id, "false").code, 0)
		c.do("stop", c.id)
		s.fails("", "exec", "-r", transport, c.id, "true")
	})
}

// Input arrives whole, and its end.
func TestExecInput(t *testing.T) {
	over(t, func(s *story, transport string) {
		c := s.pod().run(idle, nil)
		text := strings.Repeat("0123456789abcde\n", 1<<16)
		cmd := s.command("exec", "-i", "-r", transport, c.id, "head", "-c", fmt.Sprint(len(text)))
		cmd.Stdin = strings.NewReader(text)
		a := s.finish(cmd)
		s.Equal("exit code", fmt.Sprint(a.code, a.err), "0")
		s.Equal("what comes back", len(a.out) == len(text) && a.out == text, true)
		cmd = s.command("exec", "-i", "-r", transport, c.id, "wc", "-c")
		cmd.Stdin = strings.NewReader(text)
		s.Equal("to its end", strings.TrimSpace(s.finish(cmd).out), len(text))
	})
}

// Both ways at once, one line after the other.
func TestExecDialogue(t *testing.T) {
	over(t, func(s *story, transport string) {
		c := s.pod().run(idle, nil)
		cmd := s.command("exec", "-i", "-r", transport, c.id, "sh", "-c", "while read x; do echo got $x; [ $x != end ] || exit 5; done")
		in, err := cmd.StdinPipe()
		s.Ok(err)
		out, err := cmd.StdoutPipe()
		s.Ok(err)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		s.Ok(cmd.Start())
		lines := bufio.NewReader(out)
		for _, word := range []string{"one", "two", "end"} {
			fmt.Fprintln(in, word)
			line, err := lines.ReadString('\n')
			s.Equal("line", fmt.Sprint(line, err), "got "+word+"\n<nil>")
		}
		_ = cmd.Wait()
		s.Has(errs.String(), "exit code 5")
	})
}

func TestExecSync(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c, d := p.run(idle, nil), p.run(idle, nil)
	s.Equal("both streams", s.try("exec", "-s", c.id, "sh", "-c", "echo out; echo err >&2").out, "out\n\nerr\n\n")
	a := s.try("exec", "--sync", c.id, "sh", "-c", "echo out; exit 9")
	s.Equal("exit code", a.code, 1)
	s.Has(a.err, "exited with 9")
	begun := time.Now()
	s.fails("timed out", "exec", "--sync", "--timeout", "1", c.id, "sleep", "1000")
	if took := time.Since(begun); took < time.Second || took > 15*time.Second {
		s.Errorf("ended after %v", took)
	}
	// By filters, one after the other and at once.
	mine := []string{"--label", "story=" + s.name}
	all := s.do(append(append([]string{"exec", "-s"}, mine...), "echo", "here")...)
	for _, id := range []string{c.id, d.id} {
		s.Has(all, id+":")
	}
	s.Equal("answers", strings.Count(all, "here"), 2)
	s.Equal("at once", strings.Count(s.do(append(append([]string{"exec", "-s", "-x"}, mine...), "echo", "here")...), "here"), 2)
	s.Equal("by name", strings.Fields(s.do("exec", "-s", "-q", "--pod", p.id, "--name", "^"+d.name+"$", "cat", "/proc/self/comm"))[0], "cat")
}

// terminal is crictl with a terminal of its own.
type terminal struct {
	*story
	cmd  *exec.Cmd
	file *os.File
	text chan string
	seen string
}

func (s *story) terminal(args ...string) *terminal {
	s.Helper()
	cmd := s.command(args...)
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
	s.Ok(err)
	t := &terminal{story: s, cmd: cmd, file: file, text: make(chan string)}
	s.Cleanup(func() { file.Close() })
	go func() {
		defer close(t.text)
		for {
			buffer := make([]byte, 4096)
			n, err := file.Read(buffer)
			if n > 0 {
				t.text <- string(buffer[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	return t
}

// until reads on until a text has come, after what was read before.
func (t *terminal) until(want string) {
	t.Helper()
	limit := time.After(patience)
	for {
		if before, after, there := strings.Cut(t.seen, want); there {
			_ = before
			t.seen = after
			return
		}
		select {
		case text, open := <-t.text:
			if !open {
				t.Fatalf("the terminal ended without %q: %q", want, t.seen)
			}
			t.seen += text
		case <-limit:
			t.Fatalf("no %q: %q", want, t.seen)
		}
	}
}

func (t *terminal) say(text string) {
	t.Helper()
	_, err := io.WriteString(t.file, text)
	t.Ok(err)
}

// end waits for crictl's end, and answers its exit code and what was still written.
func (t *terminal) end() (int, string) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case text, open := <-t.text:
			t.seen += text
			if !open {
				_ = t.cmd.Wait()
				return t.cmd.ProcessState.ExitCode(), t.seen
			}
		case <-limit:
			t.Fatalf("it goes on: %q", t.seen)
		}
	}
}

// size asks the shell on the other end until it knows the terminal's size.
func (t *terminal) size(rows, columns int) {
	t.Helper()
	t.say(fmt.Sprintf("until [ \"$(stty size)\" = '%d %d' ]; do sleep 0.02; done; echo size-is-$(stty size | tr ' ' x)\n", rows, columns))
	t.until(fmt.Sprintf("size-is-%dx%d", rows, columns))
}

// A shell on a terminal: its size, at the start and later, ^C, and its exit code.
func TestExecTerminal(t *testing.T) {
	over(t, func(s *story, transport string) {
		c := s.pod().run(idle, nil)
		term := s.terminal("exec", "-i", "-t", "-r", transport, c.id, "sh")
		term.say("test -t 0 && echo a-termi''nal\n")
		term.until("a-terminal")
		term.size(33, 77)
		s.Ok(pty.Setsize(term.file, &pty.Winsize{Rows: 44, Cols: 111}))
		term.size(44, 111)
		// Said by a process of its own: a shell that is about to start one may swallow the interrupt.
		term.say("sh -c 'echo be\"\"fore; exec sleep 1000'; echo status-$?\n")
		term.until("before")
		term.say("\x03")
		term.say("echo af''ter\n")
		term.until("after")
		term.say("exit 6\n")
		code, rest := term.end()
		s.Equal("exit code of crictl itself", code, 1)
		s.Has(rest, "exit code 6")
		again := s.terminal("exec", "-it", "-r", transport, c.id, "sh", "-c", "tty; exit 0")
		code, rest = again.end()
		s.Equal("exit code", code, 0)
		s.Has(rest, "/dev/pts/")
		s.fails("not a terminal", "exec", "-it", "-r", transport, c.id, "sh")
	})
}

func TestAttach(t *testing.T) {
	over(t, func(s *story, transport string) {
		p := s.pod()
		c := p.run("echo begun; while read x; do echo got $x; echo err $x >&2; [ $x != end ] || exit 4; done", object{"stdin": true})
		c.says("begun")
		cmd := s.command("attach", "-i", "-r", transport, c.id)
		in, err := cmd.StdinPipe()
		s.Ok(err)
		out, err := cmd.StdoutPipe()
		s.Ok(err)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		s.Ok(cmd.Start())
		lines := bufio.NewReader(out)
		for _, word := range []string{"one", "two", "end"} {
			fmt.Fprintln(in, word)
			line, err := lines.ReadString('\n')
			s.Equal("line", fmt.Sprint(line, err), "got "+word+"\n<nil>")
		}
		_ = cmd.Wait() // an attach has no exit code of the container's
		s.Has(errs.String(), "err two")
		c.ended()
		s.Equal("exit code", c.inspect("status", "exitCode"), 4)
		s.Equal("log", s.do("logs", "--stream", "stdout", c.id), "begun\ngot one\ngot two\ngot end")
		s.fails("", "attach", "-r", transport, c.id)
		s.fails("NotFound", "attach", "-r", transport, "unknown")
		tried.note("attach")
	})
}

// Two who look on see what comes after they have come; that one of them leaves hurts nobody.
func TestAttachTwice(t *testing.T) {
	over(t, func(s *story, transport string) {
		c := s.pod().run("while :; do echo tick; sleep 0.1; done", nil)
		watch := func() (*exec.Cmd, *bufio.Reader) {
			cmd := s.command("attach", "-r", transport, c.id)
			out, err := cmd.StdoutPipe()
			s.Ok(err)
			s.Ok(cmd.Start())
			return cmd, bufio.NewReader(out)
		}
		first, one := watch()
		second, two := watch()
		tick := func(r *bufio.Reader) {
			s.Helper()
			line, err := r.ReadString('\n')
			s.Equal("line", fmt.Sprint(line, err), "tick\n<nil>")
		}
		tick(one)
		tick(two)
		s.Ok(first.Process.Kill())
		_ = first.Wait()
		for range 5 {
			tick(two)
		}
		s.do("stop", c.id)
		_ = second.Wait()
		s.Equal("exit code of one whose container ends", second.ProcessState.ExitCode(), 0)
	})
}

func TestAttachTerminal(t *testing.T) {
	over(t, func(s *story, transport string) {
		c := s.pod().run("exec sh", object{"stdin": true, "tty": true})
		term := s.terminal("attach", "-i", "-t", "-r", transport, c.id)
		term.say("echo a''nswer\n")
		term.until("answer")
		term.size(33, 77)
		s.Ok(pty.Setsize(term.file, &pty.Winsize{Rows: 44, Cols: 111}))
		term.size(44, 111)
		term.say("exit 3\n")
		term.end()
		c.ended()
		s.Equal("exit code", c.inspect("status", "exitCode"), 3)
	})
}

var forwarded = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)`)

// forward runs crictl port-forward and answers the local ports by the pod's.
func (p *pod) forward(transport string, remote ...string) (*exec.Cmd, *bytes.Buffer, map[string]string) {
	p.Helper()
	args := []string{"port-forward", "-r", transport, p.id}
	for _, port := range remote {
		args = append(args, "0:"+port)
	}
	cmd, errs := p.command(args...), &bytes.Buffer{}
	out, err := cmd.StdoutPipe()
	p.Ok(err)
	cmd.Stderr = errs
	p.Ok(cmd.Start())
	lines, ports := bufio.NewScanner(out), map[string]string{}
	for len(ports) < len(remote) && lines.Scan() {
		if found := forwarded.FindStringSubmatch(lines.Text()); found != nil {
			ports[found[2]] = found[1]
		}
	}
	if len(ports) < len(remote) {
		_ = cmd.Wait()
		p.Fatalf("ports %v: %s", ports, errs)
	}
	go io.Copy(io.Discard, out)
	return cmd, errs, ports
}

func get(port, file string) (string, error) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://127.0.0.1:" + port + "/" + file)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

func TestPortForward(t *testing.T) {
	over(t, func(s *story, transport string) {
		p := s.pod()
		serve := "httpd -p 127.0.0.1:8080 -h /www && httpd -p 0.0.0.0:8081 -h /www"
		c := p.run("mkdir /www && yes 0123456789abcde | head -c 4000000 >/www/big && echo page >/www/page && "+serve+" && echo ready && exec sleep 1000", nil)
		c.says("ready")
		cmd, errs, ports := p.forward(transport, "8080", "8081")
		for _, remote := range []string{"8080", "8081"} {
			text, err := get(ports[remote], "page")
			s.Equal("port "+remote, fmt.Sprint(text, err), "page\n<nil>")
		}
		results := make(chan error, 10)
		for i := range cap(results) {
			go func() {
				text, err := get(ports[[]string{"8080", "8081"}[i%2]], "big")
				if err == nil && len(text) != 4000000 {
					err = fmt.Errorf("%d bytes", len(text))
				}
				results <- err
			}()
		}
		for range cap(results) {
			s.Ok(<-results)
		}
		s.Ok(cmd.Process.Signal(os.Interrupt))
		_ = cmd.Wait()
		s.Equal("exit code after ^C", fmt.Sprint(cmd.ProcessState.ExitCode(), errs), "0 ")
		s.fails("", "port-forward", "-r", transport, "unknown", "0:8080")
		tried.note("port-forward")
	})
}

// Nobody listens: the client is told so, and gives up itself.
func TestPortForwardRefused(t *testing.T) {
	over(t, func(s *story, transport string) {
		p := s.pod()
		cmd, errs, ports := p.forward(transport, "8082")
		if text, err := get(ports["8082"], "page"); err == nil {
			s.Errorf("nobody listens, and somebody answers %q", text)
		}
		_ = cmd.Wait()
		s.Equal("exit code", cmd.ProcessState.ExitCode(), 1)
		s.Has(errs.String(), "onnection refused")
	})
}
