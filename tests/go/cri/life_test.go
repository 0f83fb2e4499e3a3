package cri

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStartContainer(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.create("echo begun; exit 3")
	c.start()
	status := c.ended()
	s.Equal("exit code", status.ExitCode, 3)
	s.Equal("reason", status.Reason, "Error")
	s.truth(status.CreatedAt < status.StartedAt && status.CreatedAt < status.FinishedAt, "times: %v", status)
	// The peer notes the start when it has heard of it, which may be after a quick end.
	s.truth(status.StartedAt <= status.FinishedAt || peer, "ended before it began: %v", status)
	_, err := runtime.StartContainer(s.ctx, &cri.StartContainerRequest{ContainerId: c.id})
	s.refused("a second start", err, codes.FailedPrecondition)
	done := p.run("exit 0").ended()
	s.Equal("reason of a good end", fmt.Sprint(done.Reason, " ", done.ExitCode), "Completed 0")
	_, err = runtime.StartContainer(s.ctx, &cri.StartContainerRequest{ContainerId: "unknown"})
	s.refused("start of an unknown container", err, codes.NotFound)

	missing := p.create("", func(c *cri.ContainerConfig) { c.Command, c.Args = []string{"/no/such/program"}, nil })
	_, err = runtime.StartContainer(s.ctx, &cri.StartContainerRequest{ContainerId: missing.id})
	s.truth(err != nil && strings.Contains(err.Error(), "/no/such/program"), "a program that is not there: %v", err)
	status = missing.status()
	s.Equal("state", status.State, cri.ContainerState_CONTAINER_EXITED)
	s.Equal("reason", status.Reason, "StartError")
	s.Equal("exit code", status.ExitCode, 128)
	s.Has(status.Message, "/no/such/program")
}

func TestStopContainer(t *testing.T) {
	s := begin(t)
	p := s.pod()
	polite := p.run("trap 'echo bye; exit 5' TERM; echo ready; sleep 1000 & wait")
	polite.says("ready")
	begun := time.Now()
	polite.stop(20)
	s.truth(time.Since(begun) < 10*time.Second, "the grace period was waited for although the process had ended")
	status := polite.status()
	s.Equal("state and exit code", fmt.Sprint(status.State, status.ExitCode), "CONTAINER_EXITED 5")
	polite.says("bye")
	polite.stop(20)
	s.Equal("what a second stop leaves", polite.status(), status)

	stubborn := p.run("trap '' TERM; echo ready; sleep 1000; sleep 1000")
	stubborn.says("ready")
	begun = time.Now()
	stubborn.stop(1)
	took := time.Since(begun)
	s.truth(took >= time.Second && took < 8*time.Second, "stopped after %v, with a grace period of 1 s", took)
	s.Equal("exit code", stubborn.status().ExitCode, 137)

	at := p.run("trap '' TERM; echo ready; sleep 1000; sleep 1000")
	at.says("ready")
	begun = time.Now()
	at.stop(0)
	s.truth(time.Since(begun) < 5*time.Second, "a stop without grace took %v", time.Since(begun))
	s.Equal("exit code", at.status().ExitCode, 137)

	signal := p.run("trap 'exit 7' USR1; trap 'exit 8' TERM; echo ready; sleep 1000 & wait", func(c *cri.ContainerConfig) {
		c.StopSignal = cri.Signal_SIGUSR1
	})
	signal.says("ready")
	s.Equal("signal", signal.status().StopSignal, cri.Signal_SIGUSR1)
	signal.stop(20)
	s.Equal("exit code", signal.status().ExitCode, 7)

	_, err := runtime.StopContainer(s.ctx, &cri.StopContainerRequest{ContainerId: "unknown"})
	s.Ok(err)
	created := p.create(idle)
	created.stop(1)
}

// A pod whose only container ends, and is followed by its next attempt at once, over and over. No attempt suffers from
// the end of the one before.
func TestAttempts(t *testing.T) {
	s := begin(t)
	p := s.pod()
	for attempt := range 12 {
		named := func(c *cri.ContainerConfig) {
			c.Metadata = &cri.ContainerMetadata{Name: "again", Attempt: uint32(attempt)}
		}
		c := p.run("trap 'exit 7' TERM; echo ready; sleep 1000 & wait", named)
		c.says("ready")
		if attempt%2 == 0 {
			c.stop(20)
			s.Equal("how an attempt ended that was stopped", c.status().ExitCode, 7)
		} else {
			// The process ends by itself.
			_, err := runtime.ExecSync(s.ctx, &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "kill 1"}, Timeout: 10})
			s.truth(err == nil || c.ended() != nil, "exec: %v", err)
			s.Equal("how an attempt ended by itself", c.ended().ExitCode, 7)
		}
	}
	last := p.run(idle)
	s.Equal("the last one", last.status().State, cri.ContainerState_CONTAINER_RUNNING)
	s.Equal("answers", last.sh("echo here"), "here")
}

// A stop that its caller has given up still kills, and a shorter one overtakes a longer one.
func TestStopsTogether(t *testing.T) {
	s := begin(t)
	c := s.pod().run("trap '' TERM; echo ready; sleep 1000; sleep 1000")
	c.says("ready")
	brief, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	_, err := runtime.StopContainer(brief, &cri.StopContainerRequest{ContainerId: c.id, Timeout: 600})
	s.Equal("given up", errorCode(err), codes.DeadlineExceeded)
	s.Equal("state", c.status().State, cri.ContainerState_CONTAINER_RUNNING)
	c.stop(0)
	s.Equal("exit code", c.status().ExitCode, 137)
}

func TestRemoveContainer(t *testing.T) {
	s := begin(t)
	p := s.pod()
	remove := func(id string) error {
		_, err := runtime.RemoveContainer(s.ctx, &cri.RemoveContainerRequest{ContainerId: id})
		return err
	}
	running, created, exited := p.run(idle), p.create(idle), p.run("exit 0")
	exited.ended()
	for _, c := range []*container{running, created, exited} {
		s.Ok(remove(c.id))
		_, err := runtime.ContainerStatus(s.ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
		s.refused("status of a removed container", err, codes.NotFound)
		s.Ok(remove(c.id))
	}
	s.Ok(remove("unknown"))
	_, err := os.Stat(exited.logFile())
	s.Ok(err) // logs are the kubelet's
	again := p.create(idle, func(c *cri.ContainerConfig) { c.Metadata = running.config.Metadata })
	s.truth(again.id != running.id, "a removed container came back")
}

// A pod is stopped just when its container ends by itself: whoever of the two is taken down last takes the shim along.
func TestShimsEnd(t *testing.T) {
	s := begin(t)
	own := cri.NamespaceMode_POD // the pod has a process of its own, which is the shim's first
	var pods []string
	for range 20 {
		p := s.pod(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = own })
		c := p.create("exit 0", func(c *cri.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = own })
		c.start()
		for c.status().State != cri.ContainerState_CONTAINER_EXITED {
		}
		p.stop()
		pods = append(pods, p.id)
	}
	s.Eventually("all shims have ended", func() (bool, any) {
		var left []string
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range files {
			line, _ := os.ReadFile(file)
			for _, pod := range pods {
				if bytes.Contains(line, []byte("containerd-shim")) && bytes.Contains(line, []byte(pod)) {
					left = append(left, string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
				}
			}
		}
		return len(left) == 0, left
	})
}
