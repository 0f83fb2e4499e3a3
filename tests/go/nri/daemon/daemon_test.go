// Package daemon drives a whole daemon whose pods are followed and adjusted by plugins made of NRI's own unmodified stub:
// what they ask for is looked for in processes and cgroups. It passes with a stock containerd as well, which proves the
// tests.
//
// DAEMON is the daemon's program; it is started with a configuration, a root, a state and a socket of its own, and killed
// and started anew in between. CNI_BIN, CNI_CONF and CERTS are for its pods; IMAGE is a busybox image; DISK is where the
// daemon's files are to be. PEER=containerd says that it is a containerd.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is how long a test waits for anything.
const patience = 30 * time.Second

// requestTimeout is what a plugin is given for an answer.
const requestTimeout = time.Second

var (
	peer    = os.Getenv("PEER") == "containerd"
	image   = or("IMAGE", "registry.k8s.io/e2e-test-images/busybox:1.29-2")
	runtime cri.RuntimeServiceClient
	daemon  server
	reports net.Listener
	// base is a pod that is there all the time.
	base string
)

func or(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

func TestMain(m *testing.M) {
	log.Set(quiet{})
	if os.Getenv("NRI_PLUGIN_SOCKET") != "" {
		installed()
		return
	}
	if os.Getenv("DAEMON") == "" {
		fmt.Fprintln(os.Stderr, "set DAEMON to the daemon's program")
		os.Exit(2)
	}
	code, err := suite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// suite runs the tests on a daemon of their own.
func suite(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp(os.Getenv("DISK"), "windlass-nri.")
	if err != nil {
		return 0, err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return 0, err
	}
	daemon = server{dir: dir}
	if err := daemon.prepare(); err != nil {
		return 0, err
	}
	if err := daemon.start(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, daemon.end()) }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	images := cri.NewImageServiceClient(daemon.conn)
	if _, err := images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}}); err != nil {
		return 0, err
	}
	answer, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig(dir, "base", nil)})
	if err != nil {
		return 0, err
	}
	base = answer.PodSandboxId
	return m.Run(), nil
}

// server is the daemon's process.
type server struct {
	dir  string
	cmd  *exec.Cmd
	conn *grpc.ClientConn
}

func (s *server) socket() string { return filepath.Join(s.dir, "nri.sock") }

// prepare writes the configuration, and installs this program as a plugin.
func (s *server) prepare() error {
	config := fmt.Sprintf(`version = 3
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
  address = "%[1]s/sock"
[plugins."io.containerd.nri.v1.nri"]
  socket_path = "%[2]s"
  plugin_path = "%[1]s/plugins"
  plugin_config_path = "%[1]s/conf.d"
  plugin_request_timeout = "%[6]s"
  plugin_registration_timeout = "10s"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["%[3]s"]
  conf_dir = "%[4]s"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "%[5]s"
`, s.dir, s.socket(), or("CNI_BIN", "/usr/lib/cni"), or("CNI_CONF", "/etc/cni/net.d"), os.Getenv("CERTS"), requestTimeout)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	reports, err = net.Listen("unix", filepath.Join(s.dir, "report"))
	return errors.Join(err,
		os.WriteFile(filepath.Join(s.dir, "config.toml"), []byte(config), 0o600),
		os.Mkdir(filepath.Join(s.dir, "plugins"), 0o700),
		os.Mkdir(filepath.Join(s.dir, "conf.d"), 0o700),
		os.WriteFile(filepath.Join(s.dir, "conf.d", "installed.conf"), []byte(filepath.Join(s.dir, "report")), 0o600),
		os.Symlink(self, filepath.Join(s.dir, "plugins", "05-installed")),
		// This one does not come up, and hurts nobody.
		os.WriteFile(filepath.Join(s.dir, "plugins", "06-ends"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
}

// start starts the daemon and waits until it answers.
func (s *server) start() error {
	logs, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logs.Close()
	s.cmd = exec.Command(os.Getenv("DAEMON"), "--config", filepath.Join(s.dir, "config.toml"))
	s.cmd.Stderr = logs
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if s.conn == nil {
		s.conn, err = grpc.NewClient("unix://"+filepath.Join(s.dir, "sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		runtime = cri.NewRuntimeServiceClient(s.conn)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		answer, err := runtime.Status(ctx, &cri.StatusRequest{})
		if err == nil && answer.Status.Conditions[0].Status {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("the daemon does not come up: %v: %s", err, text)
		}
	}
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// end takes all pods down, and then the daemon; nothing must be left that was mounted below its folder.
func (s *server) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	list, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	for _, pod := range list.GetItems() {
		_, stop := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.Id})
		_, remove := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id})
		err = errors.Join(err, stop, remove)
	}
	s.cmd.Process.Signal(os.Interrupt)
	s.cmd.Wait()
	s.conn.Close()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), " "+s.dir+"/") {
		err = errors.Join(err, fmt.Errorf("mounts are left in %s", s.dir))
	}
	if err == nil {
		os.RemoveAll(s.dir)
	}
	return err
}
