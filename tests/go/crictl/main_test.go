// Package crictl drives a daemon with the unmodified crictl, as people at a node do. It passes against a stock containerd
// as well, which proves the tests.
//
// WINDLASS_ADDRESS is the daemon's socket; the daemon is the suite's own, which removes all its pods, containers and
// images. RIG is a directory whose bin holds crictl (1.36). PEER=containerd says that a containerd answers: what it
// cannot do (streams by the newest protocols over WebSocket, images listed by name) is then left out.
// IMAGE is a busybox image, OTHER an image that nothing runs.
package crictl

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"windlass.dev/tests/go/check"
)

// patience is how long a test waits for anything.
const patience = 30 * time.Second

var (
	address = strings.TrimPrefix(os.Getenv("WINDLASS_ADDRESS"), "unix://")
	peer    = os.Getenv("PEER") == "containerd"
	binary  = filepath.Join(os.Getenv("RIG"), "bin", "crictl")
	image   = check.Or("IMAGE", "registry.k8s.io/e2e-test-images/busybox:1.29-2")
	other   = check.Or("OTHER", "gcr.io/k8s-staging-cri-tools/test-image-tags:1")
	run     = fmt.Sprintf("%d", os.Getpid())
	config  string
	tried   = commands{seen: map[string]bool{"help": true}}
)

func TestMain(m *testing.M) {
	if address == "" || os.Getenv("RIG") == "" {
		fmt.Fprintln(os.Stderr, "set WINDLASS_ADDRESS to the daemon's socket and RIG to the directory whose bin holds crictl")
		os.Exit(2)
	}
	code, err := suite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// suite runs the tests with the image at hand, and after a whole run holds that no command was left out.
func suite(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "windlass-crictl.")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	config = filepath.Join(dir, "crictl.yaml")
	text := fmt.Sprintf("runtime-endpoint: unix://%s\ntimeout: 30\n", address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, err
	}
	if out, err := command(context.Background(), "pull", image).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("pull: %v: %s", err, out)
	}
	code := m.Run()
	left, err := tried.missing()
	if err != nil {
		return 0, err
	}
	if code == 0 && whole() && len(left) > 0 {
		return 1, fmt.Errorf("no test ran crictl %s", strings.Join(left, ", "))
	}
	return code, nil
}

// whole: no flag picked some tests.
func whole() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if picked := flag.Lookup(name); picked != nil && picked.Value.String() != "" {
			return false
		}
	}
	return true
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, binary, append([]string{"--config", config}, args...)...)
}

// commands remembers which of crictl's commands did their work.
type commands struct {
	mutex sync.Mutex
	seen  map[string]bool
}

func (c *commands) note(name string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.seen[name] = true
}

// missing are the commands that crictl's own help lists, but for those seen.
func (c *commands) missing() ([]string, error) {
	help, err := exec.Command(binary, "--config", config, "--help").Output()
	if err != nil {
		return nil, fmt.Errorf("crictl --help: %w", err)
	}
	_, list, _ := strings.Cut(string(help), "COMMANDS:")
	list, _, _ = strings.Cut(list, "GLOBAL OPTIONS:")
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var left []string
	found := regexp.MustCompile(`(?m)^   ([a-z-]+)[, ]`).FindAllStringSubmatch(list, -1)
	for _, name := range found {
		if !c.seen[name[1]] {
			left = append(left, name[1])
		}
	}
	if len(found) < 30 {
		return nil, fmt.Errorf("crictl's help lists %d commands only", len(found))
	}
	sort.Strings(left)
	return left, nil
}
