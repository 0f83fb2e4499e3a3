// Package scale looks at what a thousand pods, twenty thousand probes and a daemon that dies with a hundred pods leave
// behind: descriptors and memory of the daemon and of a shim, which must be flat, and the time until all is as before.
//
// It starts the daemon itself (see package own). PODS, PROBES and RUNNING are the numbers (default 1000, 20000, 100);
// PARALLEL is how many clients there are (default 4). Figures are told with go test -v. PEER=containerd says that a
// containerd is measured: nothing is then demanded of it.
package scale

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"windlass.dev/tests/go/check"
	"windlass.dev/tests/go/own"
)

// What may have come on top between the end of the warm-up and the end, at rest.
const (
	moreDescriptors = 5
	moreKiB         = 2 << 10
)

var (
	image  = check.Or("IMAGE", "registry.k8s.io/e2e-test-images/busybox:1.29-2")
	peer   = os.Getenv("PEER") == "containerd"
	daemon *own.Daemon
	logs   string
)

func number(name string, fallback int) int {
	n, err := strconv.Atoi(check.Or(name, strconv.Itoa(fallback)))
	if err != nil {
		panic(err)
	}
	return n
}

func TestMain(m *testing.M) {
	code, err := suite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func suite(m *testing.M) (code int, err error) {
	daemon, err = own.New("[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = true\n")
	if err != nil {
		return 0, err
	}
	defer func() {
		if end := daemon.End(); end != nil && err == nil {
			err = end
		}
	}()
	if err := daemon.Start(); err != nil {
		return 0, err
	}
	logs = daemon.Dir + "/logs"
	if err := os.Mkdir(logs, 0o755); err != nil {
		return 0, err
	}
	if _, err := daemon.Images.PullImage(context.Background(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}}); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// size is what a process holds.
type size struct {
	descriptors, kib int
	kinds            map[string]int
}

func (s size) String() string {
	return fmt.Sprintf("%d descriptors, %.2f MiB anonymous", s.descriptors, float64(s.kib)/1024)
}

func look(t *testing.T, pid int) size {
	t.Helper()
	s := size{kinds: map[string]int{}}
	dir := fmt.Sprintf("/proc/%d/", pid)
	entries, err := os.ReadDir(dir + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink(dir + "fd/" + e.Name())
		if kind, _, named := strings.Cut(target, ":["); named {
			target = kind
		}
		s.kinds[target]++
		s.descriptors++
	}
	text, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	if _, err := fmt.Sscan(rest, &s.kib); err != nil {
		t.Fatal(err)
	}
	return s
}

// flat waits for a process to be at rest as it was before, and says what is more if it never is.
func flat(t *testing.T, what string, pid int, before size) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		after := look(t, pid)
		grown := after.descriptors > before.descriptors+moreDescriptors || after.kib > before.kib+moreKiB
		if !grown || peer || time.Now().After(deadline) {
			t.Logf("%s: after the warm-up %v; at the end %v", what, before, after)
			if !grown || peer {
				return
			}
			for kind, n := range after.kinds {
				if n > before.kinds[kind] {
					t.Logf("more of %s: %d, %d before", kind, n, before.kinds[kind])
				}
			}
			t.Errorf("%s has grown by %d descriptors and %d KiB", what, after.descriptors-before.descriptors, after.kib-before.kib)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// rest is a process's size when it has not changed for a while.
func rest(t *testing.T, pid int) size {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for last, same := look(t, pid), 0; ; time.Sleep(100 * time.Millisecond) {
		now := look(t, pid)
		if same++; now.descriptors != last.descriptors || now.kib != last.kib {
			same = 0
		}
		if last = now; same == 10 || time.Now().After(deadline) {
			return now
		}
	}
}

// many does something so many times, by some clients at a time, and ends at the first error.
func many(t *testing.T, count int, each func(ctx context.Context, i int) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	var next atomic.Int64
	var group sync.WaitGroup
	for range number("PARALLEL", 4) {
		group.Go(func() {
			for i := int(next.Add(1)); i <= count && ctx.Err() == nil; i = int(next.Add(1)) {
				if err := each(ctx, i); err != nil {
					t.Errorf("%d: %v", i, err)
					cancel()
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

var counter atomic.Int64

func run(ctx context.Context) (pod, container string, err error) {
	name := fmt.Sprintf("pod-%d", counter.Add(1))
	own := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "scale"},
		LogDirectory: logs,
		Linux:        &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: own}},
	}
	p, err := daemon.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", "", err
	}
	c, err := daemon.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "main"},
		Image:    &cri.ImageSpec{Image: image},
		Command:  []string{"sleep", "100000"},
		LogPath:  name + ".log",
		Linux:    &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: own}},
	}})
	if err != nil {
		return "", "", err
	}
	_, err = daemon.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId})
	return p.PodSandboxId, c.ContainerId, err
}

func end(ctx context.Context, pod, container string) error {
	if _, err := daemon.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: container}); err != nil {
		return err
	}
	if _, err := daemon.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: container}); err != nil {
		return err
	}
	if _, err := daemon.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		return err
	}
	_, err := daemon.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
	return err
}

func median(all []time.Duration) time.Duration {
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all[len(all)/2].Round(time.Millisecond / 10)
}
