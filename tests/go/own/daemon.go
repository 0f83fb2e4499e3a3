// Package own is for suites that own their daemon: they start it on files of its own, kill it, start it anew and look at
// its process.
//
// DAEMON is the daemon's program; CNI_BIN, CNI_CONF and CERTS are for its pods; DISK is where its files are to be.
package own

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"windlass.dev/tests/go/check"
)

const patience = 30 * time.Second

// Daemon is a daemon that this program starts and ends.
type Daemon struct {
	// Dir holds all of its files; the folder's name is in its processes' arguments.
	Dir     string
	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient
	cmd     *exec.Cmd
	conn    *grpc.ClientConn
}

// New makes a daemon's folder and its configuration, to which more may be added; @DIR@ stands for the folder.
func New(more string) (*Daemon, error) {
	if os.Getenv("DAEMON") == "" {
		return nil, errors.New("set DAEMON to the daemon's program")
	}
	dir, err := os.MkdirTemp(os.Getenv("DISK"), "windlass-own.")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`version = 3
root = "@DIR@/root"
state = "@DIR@/state"
[grpc]
  address = "@DIR@/sock"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["%s"]
  conf_dir = "%s"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "%s"
`, check.Or("CNI_BIN", "/usr/lib/cni"), check.Or("CNI_CONF", "/etc/cni/net.d"), os.Getenv("CERTS"))
	config = strings.ReplaceAll(config+more, "@DIR@", dir)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		// At once after the daemon has come back.
		grpc.WithIdleTimeout(0), grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, err
	}
	return &Daemon{Dir: dir, conn: conn, Runtime: cri.NewRuntimeServiceClient(conn), Images: cri.NewImageServiceClient(conn)}, nil
}

// Pid is the daemon's process.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Launch starts the daemon and does not wait.
func (d *Daemon) Launch() error {
	logs, err := os.OpenFile(filepath.Join(d.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logs.Close()
	d.cmd = exec.Command(os.Getenv("DAEMON"), "--config", filepath.Join(d.Dir, "config.toml"))
	d.cmd.Stderr = logs
	return d.cmd.Start()
}

// Start starts the daemon and waits until it says that it is ready.
func (d *Daemon) Start() error {
	if err := d.Launch(); err != nil {
		return err
	}
	return d.Until(func(ctx context.Context) error {
		answer, err := d.Runtime.Status(ctx, &cri.StatusRequest{})
		if err == nil && !answer.Status.Conditions[0].Status {
			err = errors.New("not ready")
		}
		return err
	})
}

// Until asks again, at once, until there is no error any more.
func (d *Daemon) Until(ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		// gRPC would wait for a second before it connects again.
		d.conn.ResetConnectBackoff()
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			text, _ := os.ReadFile(filepath.Join(d.Dir, "log"))
			return fmt.Errorf("the daemon does not come up: %v: %s", err, text[max(0, len(text)-4000):])
		}
	}
}

// Kill ends the daemon as a crash does.
func (d *Daemon) Kill() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
}

// Clear removes all pods.
func (d *Daemon) Clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	list, err := d.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	errs := make([]error, len(list.GetItems()))
	var group sync.WaitGroup
	turns := make(chan struct{}, 4)
	for i, pod := range list.GetItems() {
		group.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			_, stop := d.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.Id})
			_, remove := d.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id})
			errs[i] = errors.Join(stop, remove)
		})
	}
	group.Wait()
	return errors.Join(append(errs, err)...)
}

// End takes all pods down, and then the daemon; no mount and no shim must be left of it.
func (d *Daemon) End() error {
	if d.cmd == nil {
		return os.RemoveAll(d.Dir)
	}
	err := d.Clear()
	d.cmd.Process.Signal(os.Interrupt)
	d.cmd.Wait()
	d.conn.Close()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), " "+d.Dir+"/") {
		err = errors.Join(err, fmt.Errorf("mounts are left in %s", d.Dir))
	}
	if left := d.Shims(); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("shims are left: %v", left))
	}
	if err == nil {
		os.RemoveAll(d.Dir)
	}
	return err
}

// Shims are the processes of the daemon's shims; given ids, those that bear one of them: a pod's or its container's.
func (d *Daemon) Shims(ids ...string) []int {
	var found []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		line := strings.ReplaceAll(string(text), "\x00", " ")
		if strings.Contains(line, "containerd-shim") && strings.Contains(line, d.Dir+"/sock") &&
			(len(ids) == 0 || slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(line, id) })) {
			var pid int
			if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}
