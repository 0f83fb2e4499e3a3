// Package daemon drives a whole daemon whose pods are followed and adjusted by plugins made of NRI's own unmodified stub:
// what they ask for is looked for in processes and cgroups. It passes with a stock containerd as well, which proves the
// tests.
//
// It starts the daemon itself (see package own). IMAGE is a busybox image. PEER=containerd says that it is a containerd.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/log"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"windlass.dev/tests/go/check"
	"windlass.dev/tests/go/own"
)

// patience is how long a test waits for anything.
const patience = 30 * time.Second

// requestTimeout is what a plugin is given for an answer.
const requestTimeout = time.Second

var (
	image   = check.Or("IMAGE", "registry.k8s.io/e2e-test-images/busybox:1.29-2")
	peer    = os.Getenv("PEER") == "containerd"
	runtime cri.RuntimeServiceClient
	daemon  *own.Daemon
	reports net.Listener
	// base is a pod that is there all the time.
	base string
)

func TestMain(m *testing.M) {
	log.Set(quiet{})
	if os.Getenv("NRI_PLUGIN_SOCKET") != "" {
		installed()
		return
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
	daemon, err = own.New(fmt.Sprintf(`[plugins."io.containerd.nri.v1.nri"]
  socket_path = "@DIR@/nri.sock"
  plugin_path = "@DIR@/plugins"
  plugin_config_path = "@DIR@/conf.d"
  plugin_request_timeout = "%s"
  plugin_registration_timeout = "10s"
[plugins."io.containerd.service.v1.tasks-service"]
  blockio_config_file = "@DIR@/classes.yaml"
`, requestTimeout))
	if err != nil {
		return 0, err
	}
	runtime = daemon.Runtime
	defer func() { err = errors.Join(err, daemon.End()) }()
	if err := install(); err != nil {
		return 0, err
	}
	if err := daemon.Start(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if _, err := daemon.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}}); err != nil {
		return 0, err
	}
	answer, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig(daemon.Dir, "base", nil)})
	if err != nil {
		return 0, err
	}
	base = answer.PodSandboxId
	return m.Run(), nil
}

// disk is the name of a whole disk, and its number as cgroups write it.
func disk() (name, number string, err error) {
	all, err := filepath.Glob("/sys/block/*/dev")
	for _, path := range all {
		name = filepath.Base(filepath.Dir(path))
		text, err := os.ReadFile(path)
		if _, missing := os.Stat("/dev/" + name); err == nil && missing == nil {
			return name, strings.TrimSpace(string(text)), nil
		}
	}
	return "", "", errors.Join(err, errors.New("there is no disk in /dev"))
}

// install puts this program where the daemon looks for plugins.
func install() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(daemon.Dir, name) }
	reports, err = net.Listen("unix", at("report"))
	name, _, err2 := disk()
	classes := fmt.Sprintf("Classes:\n  slow:\n  - Devices: [/dev/%s]\n    ThrottleReadBps: 300M\n", name)
	return errors.Join(err, err2, os.WriteFile(at("classes.yaml"), []byte(classes), 0o600),
		os.Mkdir(at("plugins"), 0o700),
		os.Mkdir(at("conf.d"), 0o700),
		os.WriteFile(at("conf.d/installed.conf"), []byte(at("report")), 0o600),
		os.Symlink(self, at("plugins/05-installed")),
		// This one does not come up, and hurts nobody.
		os.WriteFile(at("plugins/06-ends"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
}
