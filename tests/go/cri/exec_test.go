package cri

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func errorCode(err error) codes.Code { return status.Code(err) }

func TestExecSync(t *testing.T) {
	s := begin(t)
	c := s.pod().run(idle, func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "COLOUR", Value: "green"}}
	})
	ask := func(id string, timeout int64, cmd ...string) (*cri.ExecSyncResponse, error) {
		return runtime.ExecSync(s.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: timeout})
	}
	answer, err := ask(c.id, 0, "sh", "-c", "echo to stdout; echo to stderr >&2; exit 42")
	s.Ok(err)
	s.Equal("stdout", string(answer.Stdout), "to stdout\n")
	s.Equal("stderr", string(answer.Stderr), "to stderr\n")
	s.Equal("exit code", answer.ExitCode, 42)
	s.Equal("environment", c.sh("echo $COLOUR"), "green")
	s.Equal("standard input", c.sh("wc -c"), "0")
	answer, err = ask(c.id, 10, "head", "-c", "1000000", "/dev/zero")
	s.Ok(err)
	s.Equal("much output", len(answer.Stdout), 1000000)

	// A command past its time is killed.
	begun := time.Now()
	_, err = ask(c.id, 1, "sh", "-c", "exec sleep 4323")
	s.Equal("past its time", errorCode(err), codes.DeadlineExceeded)
	s.truth(time.Since(begun) >= time.Second, "ended after %v", time.Since(begun))
	s.Eventually("the command is killed", func() (bool, any) {
		all := c.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
		return !strings.Contains(all, "sleep 4323"), all
	})

	_, err = ask(c.id, 0, "/no/such/program")
	s.truth(err != nil && strings.Contains(err.Error(), "/no/such/program"), "a program that is not there: %v", err)
	_, err = ask("unknown", 0, "true")
	s.refused("a command in an unknown container", err, codes.NotFound)
	c.stop(10)
	_, err = ask(c.id, 0, "true")
	s.refused("a command in a container that has ended", err, codes.FailedPrecondition)
}

// Probes come many at once.
func TestManyExecs(t *testing.T) {
	s := begin(t)
	c := s.pod().run(idle)
	outputs, errs := together(20, func() (string, error) {
		answer, err := runtime.ExecSync(s.ctx, &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"cat", "/proc/self/comm"}, Timeout: 20})
		return string(answer.GetStdout()) + string(answer.GetStderr()), err
	})
	s.truth(len(errs) == 0, "failures: %v", errs)
	s.Equal("outputs", outputs, []string{"cat\n"})
}
