package ctr

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestRunExitCode(t *testing.T) {
	s := withImage(t)
	_, _, code := s.try("run", "--rm", image, "c", "sh", "-c", "exit 7")
	if code != 7 {
		t.Fatalf("exit code %d, want 7", code)
	}
	s.equal(s.ok("container", "ls", "-q"), "")
	s.fails("no such file or directory", "run", "--rm", image, "c", "/no/such/program")
	s.fails("executable file not found", "run", "--rm", image, "c", "no-such-program")
	s.equal(s.ok("task", "ls", "-q"), "")
}

func TestRunEnvironment(t *testing.T) {
	s := withImage(t)
	s.equal(s.ok("run", "--rm", "--env", "A=b c", image, "c", "sh", "-c", "echo $A"), "b c")
	s.equal(s.ok("run", "--rm", "--cwd", "/tmp", image, "c", "pwd"), "/tmp")
	s.equal(s.ok("run", "--rm", "--hostname", "h1", image, "c", "hostname"), "h1")
	s.has(s.ok("run", "--rm", image, "c", "cat", "/proc/1/comm"), "cat")
}

func TestRunMounts(t *testing.T) {
	s := withImage(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("inside"), 0o644); err != nil {
		t.Fatal(err)
	}
	mount := "type=bind,src=" + dir + ",dst=/mnt,options="
	s.equal(s.ok("run", "--rm", "--mount", mount+"rbind:ro", image, "c", "cat", "/mnt/f"), "inside")
	s.fails("Read-only", "run", "--rm", "--mount", mount+"rbind:ro", image, "c", "touch", "/mnt/g")
	s.ok("run", "--rm", "--mount", mount+"rbind:rw", image, "c", "touch", "/mnt/g")
	if _, err := os.Stat(filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
}

func TestRunUser(t *testing.T) {
	s := withImage(t)
	s.equal(s.ok("run", "--rm", "--user", "1000:1001", image, "c", "sh", "-c", "echo $(id -u):$(id -g)"), "1000:1001")
}

func TestRunLimits(t *testing.T) {
	s := withImage(t)
	group := "/windlass-test-" + s.name
	id := s.detached("--memory-limit", "67108864", "--cgroup", group)
	found := ""
	for _, file := range []string{"/sys/fs/cgroup/memory" + group + "/memory.limit_in_bytes", "/sys/fs/cgroup" + group + "/memory.max"} {
		if data, err := os.ReadFile(file); err == nil {
			found = string(data)
		}
	}
	s.equal(found, "67108864")
	s.has(s.ok("task", "metrics", id), "67108864")
}

func TestRunReadOnly(t *testing.T) {
	s := withImage(t)
	s.fails("Read-only", "run", "--rm", "--read-only", image, "c", "touch", "/x")
	s.ok("run", "--rm", image, "c", "touch", "/x")
}

func TestRunSeccomp(t *testing.T) {
	s := withImage(t)
	s.equal(s.ok("run", "--rm", "--seccomp", image, "c", "sh", "-c", "grep Seccomp: /proc/self/status | tr -d '\\t'"), "Seccomp:2")
	s.equal(s.ok("run", "--rm", image, "c", "sh", "-c", "grep Seccomp: /proc/self/status | tr -d '\\t'"), "Seccomp:0")
	profile := filepath.Join(t.TempDir(), "p.json")
	text := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.fails("not permitted", "run", "--rm", "--seccomp", "--seccomp-profile", profile, image, "c", "mkdir", "/d")
}

func TestRunWithNamespace(t *testing.T) {
	s := withImage(t)
	id := s.detached()
	pid := ""
	for _, line := range strings.Split(s.ok("task", "ls"), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == id {
			pid = f[1]
		}
	}
	want, err := os.Readlink("/proc/" + pid + "/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	s.equal(s.ok("run", "--rm", "--with-ns", "uts:/proc/"+pid+"/ns/uts", image, "c", "readlink", "/proc/self/ns/uts"), want)
	host, _ := os.Readlink("/proc/self/ns/net")
	s.equal(s.ok("run", "--rm", "--net-host", image, "c", "readlink", "/proc/self/ns/net"), host)
}

func TestLogFile(t *testing.T) {
	s := withImage(t)
	file := filepath.Join(t.TempDir(), "log")
	s.ok("run", "-d", "--log-uri", "file://"+file, image, "c", "sh", "-c", "echo out; echo err >&2")
	s.eventually("the log is written", func() bool {
		data, _ := os.ReadFile(file)
		return strings.Contains(string(data), "out\n") && strings.Contains(string(data), "err\n")
	})
}

// TestLogBinary uses a shell script as the logger: file descriptors 3 and 4 are the streams, closing 5 says ready.
func TestLogBinary(t *testing.T) {
	s := withImage(t)
	dir := t.TempDir()
	logger, file := filepath.Join(dir, "logger"), filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho \"$CONTAINER_ID $CONTAINER_NAMESPACE\" >%s\nexec 5>&-\ncat <&3 >>%s\n", file, file)
	if err := os.WriteFile(logger, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s.ok("run", "-d", "--log-uri", "binary://"+logger, image, "c", "sh", "-c", "echo from-container")
	s.eventually("the logger gets the output", func() bool {
		data, _ := os.ReadFile(file)
		return strings.Contains(string(data), "c "+s.name) && strings.Contains(string(data), "from-container\n")
	})
}

func TestRunTerminal(t *testing.T) {
	s := withImage(t)
	cmd := s.command("run", "--rm", "-t", image, "c", "sh", "-c", "tty; stty size; read x; echo got $x; exit 3")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	reader := bufio.NewReader(terminal)
	line := func() string {
		text, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("terminal ended: %v", err)
		}
		return strings.TrimSpace(text)
	}
	for text := line(); text != "/dev/pts/0"; text = line() { // ctr's own warnings come first
	}
	line() // the size may still be the one before the first resize
	fmt.Fprintln(terminal, "ping")
	for text := line(); text != "got ping"; text = line() {
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Fatalf("exit code %d, want 3", code)
	}
}

func TestExec(t *testing.T) {
	s := withImage(t)
	id := s.detached()
	s.equal(s.ok("task", "exec", "--exec-id", "e1", id, "echo", "inside"), "inside")
	_, _, code := s.try("task", "exec", "--exec-id", "e2", id, "sh", "-c", "exit 9")
	if code != 9 {
		t.Fatalf("exit code %d, want 9", code)
	}
	cmd := s.command("task", "exec", "--exec-id", "e3", id, "cat")
	cmd.Stdin = strings.NewReader("through stdin")
	if out, err := cmd.Output(); err != nil || string(out) != "through stdin" {
		t.Fatalf("%q, %v", out, err)
	}
	s.equal(s.ok("task", "exec", "--exec-id", "e4", "--user", "1000", id, "id", "-u"), "1000")
	s.equal(s.ok("task", "exec", "--exec-id", "e5", "--cwd", "/tmp", id, "pwd"), "/tmp")
	big := s.ok("task", "exec", "--exec-id", "e6", id, "sh", "-c", "yes 0123456789abcde | head -c 8000000")
	if len(big) != 8000000 {
		t.Fatalf("%d bytes of 8000000 arrived", len(big))
	}
}

func TestKillPauseResume(t *testing.T) {
	s := withImage(t)
	id := s.detached()
	s.has(s.ok("task", "ls"), "RUNNING")
	s.ok("task", "pause", id)
	s.has(s.ok("task", "ls"), "PAUSED")
	s.ok("task", "resume", id)
	s.has(s.ok("task", "ls"), "RUNNING")
	s.has(s.ok("task", "ps", id), "PID")
	s.has(s.ok("task", "metrics", id), "memory")
	s.fails("", "task", "delete", id)
	s.ok("task", "kill", "-s", "SIGKILL", id)
	s.eventually("the task stops", func() bool { return strings.Contains(s.ok("task", "ls"), "STOPPED") })
	s.ok("task", "delete", id)
	s.equal(s.ok("task", "ls", "-q"), "")
	s.ok("container", "delete", id)
}

func TestExitStatusOfAKilledTask(t *testing.T) {
	s := withImage(t)
	cmd := s.command("run", "--rm", image, "c", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the task runs", func() bool { return strings.Contains(s.ok("task", "ls"), "RUNNING") })
	s.ok("task", "kill", "-s", "KILL", "c")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 137 {
		t.Fatalf("exit code %d, want 137", code)
	}
}

func TestTermSignal(t *testing.T) {
	s := withImage(t)
	cmd := s.command("run", "--rm", image, "c", "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
	pipe, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(pipe).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.ok("task", "kill", "-s", "TERM", "c")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Fatalf("exit code %d, want 5", code)
	}
}

func TestAttach(t *testing.T) {
	s := withImage(t)
	s.ok("container", "create", image, "c", "sh", "-c", "read x; echo got $x; exit 4")
	start := s.command("task", "start", "c")
	input, _ := start.StdinPipe()
	output, _ := start.StdoutPipe()
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(input, "hello")
	text, _ := bufio.NewReader(output).ReadString('\n')
	s.equal(text, "got hello")
	_ = start.Wait()
	if code := start.ProcessState.ExitCode(); code != 4 {
		t.Fatalf("exit code %d, want 4", code)
	}
	s.try("task", "delete", "c")

	s.ok("container", "create", image, "d", "sh", "-c", "while :; do echo tick; sleep 0.1; done")
	first := s.command("task", "start", "d")
	pipe, _ := first.StdoutPipe()
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(pipe).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	second := s.command("task", "attach", "d")
	again, _ := second.StdoutPipe()
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	if text, err := bufio.NewReader(again).ReadString('\n'); err != nil || !strings.Contains(text, "tick") {
		t.Fatalf("%q %v", text, err)
	}
	s.try("task", "kill", "-s", "KILL", "d")
	_ = second.Wait()
	_ = first.Wait()
}

func TestContainerRecord(t *testing.T) {
	s := withImage(t)
	s.ok("container", "create", "--label", "x=y", image, "c", "true")
	s.has(s.ok("container", "info", "c"), `"x": "y"`)
	s.has(s.ok("container", "info", "--spec", "c"), `"ociVersion"`)
	s.ok("container", "label", "c", "k=v")
	s.has(s.ok("container", "ls", "labels.k==v"), "io.containerd.runc.v2")
	s.fails("already exists", "container", "create", image, "c", "true")
	s.ok("container", "delete", "c")
	s.fails("not found", "container", "info", "c")
}

func TestEvents(t *testing.T) {
	s := withImage(t)
	events := s.command("events", "namespace=="+s.name)
	pipe, _ := events.StdoutPipe()
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 256)
	go func() {
		for scan := bufio.NewScanner(pipe); scan.Scan(); {
			lines <- scan.Text()
		}
		close(lines)
	}()
	// The subscription is known to run once it shows a label change.
	s.eventually("the subscription runs", func() bool {
		s.ok("image", "label", image, fmt.Sprintf("n=%d", counter.Add(1)))
		return len(lines) > 0
	})
	s.ok("run", "--rm", image, "c", "true")
	want := []string{"/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete"}
	limit := time.After(20 * time.Second)
	for len(want) > 0 {
		select {
		case line := <-lines:
			if strings.Contains(line, " "+want[0]+" ") {
				want = want[1:]
			}
		case <-limit:
			t.Fatalf("no %s in time or in this order", want[0])
		}
	}
	_ = events.Process.Kill()
	_ = events.Wait()
}
