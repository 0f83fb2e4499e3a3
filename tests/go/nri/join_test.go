package nri

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// A plugin joins between two operations, and holds others up for a while at most while it waits.
func TestJoinBetweenOperations(t *testing.T) {
	h := start(t, nil)
	h.do("keep", nil)
	p := newPlugin("10-waits")
	p.connect(t, h.socket)
	for range 3 {
		begun := time.Now()
		h.do("hold", nil)
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("held up for %v", took)
		}
	}
	// It has not joined and is told of nothing.
	equal(t, "plugins", h.plugins(), "")
	h.do("run_pod", object{"pod": pod})
	p.expect(t)
	h.do("release", nil)
	p.expect(t, event{Name: "Synchronize"})
	h.left("10-waits")
	h.do("run_pod", object{"pod": pod})
	p.expect(t, event{"RunPodSandbox", "p1", ""})
}

// Plugins that come and go leave nothing behind.
func TestComeAndGo(t *testing.T) {
	h := start(t, nil)
	open := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.cmd.Process.Pid))
		must(t, err)
		return len(fds)
	}
	stays := newPlugin("50-stays")
	stays.events = make(chan event, 1000)
	stays.join(t, h)
	before := open()
	for i := range 200 {
		p := newPlugin("10-guest").join(t, h)
		if i%2 == 0 {
			p.onEvent = func(string) error { go p.stub.Stop(); <-p.closed; return nil }
		}
		h.do("run_pod", object{"pod": pod})
		p.stub.Stop()
		h.left("50-stays")
	}
	end := time.Now().Add(limit)
	for open() > before {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, %d before", open(), before)
		}
	}
}

// What is asked at the same time is answered, in whatever order; a plugin hears one thing at a time.
func TestManyAtOnce(t *testing.T) {
	h := start(t, nil)
	p := newPlugin("10-all").join(t, h)
	p.events = make(chan event, 1000)
	amid := make(chan struct{}, 1)
	p.onEvent = func(string) error {
		select {
		case amid <- struct{}{}:
			<-amid
			return nil
		default:
			return fmt.Errorf("two at once")
		}
	}
	var answers []chan object
	for i := range 200 {
		args := object{"pod": object{"id": fmt.Sprint("p", i)}, "container": container(fmt.Sprint("c", i)), "value": spec()}
		answers = append(answers, h.begin("run_pod", args), h.begin("create_container", args))
	}
	for _, answer := range answers {
		if a := wait(t, answer, "an answer"); a["error"] != nil {
			t.Fatal(a["error"])
		}
	}
	equal(t, "events", len(p.events), 400)
}
