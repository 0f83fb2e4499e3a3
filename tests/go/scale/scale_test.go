package scale

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pods that come and go leave the daemon as it was.
func TestPods(t *testing.T) {
	count := number("PODS", 1000)
	warm := count / 5
	cycle := func(ctx context.Context, _ int) error {
		pod, container, err := run(ctx)
		if err != nil {
			return err
		}
		return end(ctx, pod, container)
	}
	many(t, warm, cycle)
	before := rest(t, daemon.Pid())
	begun := time.Now()
	for done := 0; done < count-warm; done += warm {
		many(t, min(warm, count-warm-done), cycle)
		t.Logf("after %d pods: %v", warm+done+min(warm, count-warm-done), look(t, daemon.Pid()))
	}
	took := time.Since(begun)
	t.Logf("%d cycles in %v: %v each", count-warm, took.Round(time.Millisecond), (took / time.Duration(count-warm)).Round(time.Millisecond/10))
	flat(t, "the daemon", daemon.Pid(), before)
	if left := daemon.Shims(); len(left) > 0 {
		t.Errorf("shims are left: %v", left)
	}
}

// Probes leave the daemon and the container's shim as they were.
func TestProbes(t *testing.T) {
	count := number("PROBES", 20000)
	warm := count / 10
	pod, container, err := run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := end(context.Background(), pod, container); err != nil {
			t.Error(err)
		}
	})
	shims := daemon.Shims(pod, container)
	if len(shims) != 1 {
		t.Fatalf("shims of the pod: %v", shims)
	}
	var mutex sync.Mutex
	var times []time.Duration
	probe := func(ctx context.Context, i int) error {
		begun := time.Now()
		answer, err := daemon.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: container, Cmd: []string{"echo", fmt.Sprint(i)}, Timeout: 20})
		if err == nil && string(answer.Stdout) != fmt.Sprintln(i) {
			err = fmt.Errorf("exit code %d, output %q%q", answer.ExitCode, answer.Stdout, answer.Stderr)
		}
		mutex.Lock()
		times = append(times, time.Since(begun))
		mutex.Unlock()
		return err
	}
	many(t, warm, probe)
	before, shim := rest(t, daemon.Pid()), rest(t, shims[0])
	times = nil
	for done := 0; done < count-warm; done += 3 * warm {
		n := min(3*warm, count-warm-done)
		many(t, n, probe)
		t.Logf("after %d probes: daemon %v; shim %v", warm+done+n, look(t, daemon.Pid()), look(t, shims[0]))
	}
	t.Logf("a probe takes %v (median), by %d clients", median(times), number("PARALLEL", 4))
	flat(t, "the daemon", daemon.Pid(), before)
	flat(t, "the shim", shims[0], shim)
}

// A daemon that was killed finds all its pods again.
func TestRestart(t *testing.T) {
	count := number("RUNNING", 100)
	var mutex sync.Mutex
	containers := map[string]string{}
	begun := time.Now()
	many(t, count, func(ctx context.Context, _ int) error {
		pod, container, err := run(ctx)
		mutex.Lock()
		defer mutex.Unlock()
		containers[pod] = container
		return err
	})
	t.Logf("%d pods run after %v; %v", count, time.Since(begun).Round(time.Millisecond), rest(t, daemon.Pid()))
	var answers, alls []time.Duration
	for range 5 {
		daemon.Kill()
		begun := time.Now()
		if err := daemon.Launch(); err != nil {
			t.Fatal(err)
		}
		answered := time.Duration(0)
		err := daemon.Until(func(ctx context.Context) error {
			if _, err := daemon.Runtime.Status(ctx, &cri.StatusRequest{}); err != nil {
				return err
			}
			if answered == 0 {
				answered = time.Since(begun)
			}
			return all(ctx, containers)
		})
		if err != nil {
			t.Fatal(err)
		}
		answers, alls = append(answers, answered), append(alls, time.Since(begun))
	}
	t.Logf("from the start of the daemon's process, medians of %d: Status answers after %v; all %d pods and containers are there after %v",
		len(alls), median(answers), count, median(alls))
	t.Logf("the daemon with %d pods: %v", count, rest(t, daemon.Pid()))
	// And they are real.
	for _, container := range containers {
		answer, err := daemon.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: container, Cmd: []string{"echo", "here"}, Timeout: 20})
		if err != nil || string(answer.Stdout) != "here\n" {
			t.Fatalf("%s: %v, %v", container, answer, err)
		}
	}
	if err := daemon.Clear(); err != nil {
		t.Error(err)
	}
}

// all holds that all pods are ready and all containers run.
func all(ctx context.Context, containers map[string]string) error {
	pods, err := daemon.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		return err
	}
	list, err := daemon.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		return err
	}
	if len(pods.Items) != len(containers) || len(list.Containers) != len(containers) {
		return fmt.Errorf("%d pods are ready and %d containers run, of %d", len(pods.Items), len(list.Containers), len(containers))
	}
	for _, c := range list.Containers {
		if containers[c.PodSandboxId] != c.Id {
			return fmt.Errorf("container %s in pod %s", c.Id, c.PodSandboxId)
		}
	}
	return nil
}
