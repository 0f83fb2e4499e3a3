package crictl

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNode(t *testing.T) {
	s := begin(t)
	version := s.do("version")
	s.Has(version, "RuntimeName:  "+map[bool]string{false: "windlass", true: "containerd"}[peer])
	s.Has(version, "RuntimeApiVersion:  v1")
	s.Has(s.do("-D", "version"), "RuntimeVersion:")
	info := s.json("info")
	for i, want := range []string{"RuntimeReady", "NetworkReady"} {
		s.Equal("condition", fmt.Sprintf("%v %v", dig(info, "status", "conditions", i, "type"), dig(info, "status", "conditions", i, "status")), want+" true")
	}
	s.Equal("configuration", dig(info, "config") != nil, true)
	s.Equal("quiet", dig(s.json("info", "-q"), "config"), nil)
	s.Has(s.do("info", "-o", "yaml"), "type: RuntimeReady")
	s.Equal("template", s.do("info", "-o", "go-template", "--template", "{{(index .status.conditions 0).type}}"), "RuntimeReady")
	s.Has(s.do("runtime-config"), "cgroup driver:   CGROUPFS")
	s.Has(s.try("update-runtime-config", "--pod-cidr", "10.88.0.0/16").err, "successfully updated")
	s.do("update-runtime-config", "--pod-cidr", "10.88.0.0/16")

	usage := s.json("imagefsinfo")
	where := fmt.Sprint(dig(usage, "status", "imageFilesystems", 0, "fsId", "mountpoint"))
	if at, err := os.Stat(where); err != nil || !at.IsDir() {
		s.Errorf("images are at %s: %v", where, err)
	}
	s.Has(s.do("imagefsinfo", "-o", "table"), "Mountpoint[0]: "+where)
	s.Has(s.do("imagefsinfo", "-o", "yaml"), "mountpoint: "+where)
	s.Equal("template", s.do("imagefsinfo", "-o", "go-template", "--template", "{{(index .status.imageFilesystems 0).fsId.mountpoint}}"), where)
}

// These need no daemon; they are here so that every command is.
func TestConfiguration(t *testing.T) {
	s := begin(t)
	file := filepath.Join(s.dir, "crictl.yaml")
	own := func(args ...string) string {
		s.Helper()
		out, err := exec.Command(binary, append([]string{"--config", file}, args...)...).CombinedOutput()
		if err != nil {
			s.Fatalf("crictl %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	s.Ok(os.WriteFile(file, nil, 0o600))
	own("config", "--set", "runtime-endpoint=unix://"+address, "--set", "timeout=20")
	s.Has(own("config", "--get", "timeout"), "20")
	s.Has(own("config", "--list"), address)
	s.Has(own("version"), "RuntimeName")
	tried.note("config")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		s.Has(s.do("completion", shell), "crictl")
	}
	out, err := exec.Command(binary, "--config", config, "-r", "unix:///no/such/socket", "-t", "1s", "version").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/no/such/socket") {
		s.Errorf("a socket that is not there: %v: %s", err, out)
	}
	out, err = exec.Command(binary, "--config", file, "-r", "unix://"+address, "-i", "unix://"+address, "images").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "IMAGE ID") {
		s.Errorf("endpoints as flags: %v: %s", err, out)
	}
}

// What happens to a container is told once, in order.
func TestEvents(t *testing.T) {
	s := begin(t)
	p := s.pod()
	cmd := s.command("events", "-o", "go-template", "--template", "{{.containerId}} {{.containerEventType}}")
	out, err := cmd.StdoutPipe()
	s.Ok(err)
	s.Ok(cmd.Start())
	lines := make(chan string, 4096)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	// It is known to listen once it has told of something.
	s.Eventually("it listens", func() (bool, any) {
		p.create(idle, nil)
		return len(lines) > 0, nil
	})
	tried.note("events")
	c := p.run("exit 3", nil)
	c.ended()
	s.do("rm", c.id)
	limit := time.After(patience)
	for _, want := range []string{"CREATED", "STARTED", "STOPPED", "DELETED"} {
		for told := ""; told == ""; {
			select {
			case line, open := <-lines:
				if !open {
					s.Fatalf("the stream ended before %s", want)
				}
				if id, kind, _ := strings.Cut(line, " "); id == c.id {
					told = kind
				}
			case <-limit:
				s.Fatalf("no %s", want)
			}
			if told != "" {
				s.Equal("event", told, "CONTAINER_"+want+"_EVENT")
			}
		}
	}
	s.Ok(cmd.Process.Signal(os.Interrupt))
	for range lines {
	}
	_ = cmd.Wait()
	s.fails("don't support", "events", "-o", "table")
}
