package cri

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// events is what GetContainerEvents tells of one story's pods, in order.
type events struct {
	*story
	arrived chan *cri.ContainerEventResponse
}

// listen subscribes, and makes sure that the subscription holds: a pod is made until one is told of.
func (s *story) listen() *events {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	stream, err := runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	s.Ok(err)
	e := &events{s, make(chan *cri.ContainerEventResponse, 1000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			event, err := stream.Recv()
			if err != nil {
				return
			}
			if event.PodSandboxStatus.GetLabels()["story"] == s.name || event.PodSandboxStatus == nil {
				e.arrived <- event
			}
		}
	}()
	s.Cleanup(func() {
		cancel()
		<-ended
	})
	_, err = stream.Header()
	s.Ok(err)
	return e
}

// next is the next event of a container or pod; those of others are passed over.
func (e *events) next(id string) *cri.ContainerEventResponse {
	e.Helper()
	deadline := time.After(patience)
	for {
		select {
		case event := <-e.arrived:
			if event.ContainerId == id {
				return event
			}
		case <-deadline:
			e.Fatalf("no more events of %s", id)
		}
	}
}

func TestGetContainerEvents(t *testing.T) {
	s := begin(t)
	e := s.listen()
	before := time.Now().UnixNano()
	p := s.pod()
	// The pod itself.
	for _, want := range []cri.ContainerEventType{cri.ContainerEventType_CONTAINER_CREATED_EVENT, cri.ContainerEventType_CONTAINER_STARTED_EVENT} {
		event := e.next(p.id)
		s.Equal("event of the pod", event.ContainerEventType, want)
		s.Equal("pod", event.PodSandboxStatus.Metadata, p.config.Metadata)
	}
	// A container's life, told with its state at the time.
	c := p.create("exit 6")
	event := e.next(c.id)
	s.Equal("event", event.ContainerEventType, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	last := event.CreatedAt
	s.truth(before < last, "created at %d, begun at %d", last, before)
	c.start()
	for _, want := range []cri.ContainerEventType{cri.ContainerEventType_CONTAINER_STARTED_EVENT, cri.ContainerEventType_CONTAINER_STOPPED_EVENT} {
		event = e.next(c.id)
		s.Equal("event", event.ContainerEventType, want)
		s.truth(event.CreatedAt >= last || peer, "times go back")
		last = event.CreatedAt
		s.Equal("pod", event.PodSandboxStatus.Id, p.id)
	}
	s.Equal("containers told of", len(event.ContainersStatuses), 1)
	told := event.ContainersStatuses[0]
	s.Equal("told state", fmt.Sprintln(told.Id, told.State, told.ExitCode, told.Reason), fmt.Sprintln(c.id, "CONTAINER_EXITED", 6, "Error"))
	_, err := runtime.RemoveContainer(s.ctx, &cri.RemoveContainerRequest{ContainerId: c.id})
	s.Ok(err)
	s.Equal("event", e.next(c.id).ContainerEventType, cri.ContainerEventType_CONTAINER_DELETED_EVENT)

	p.stop()
	stopped := e.next(p.id)
	s.Equal("event of the pod", stopped.ContainerEventType, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	s.Equal("state of the pod", stopped.PodSandboxStatus.State, cri.PodSandboxState_SANDBOX_NOTREADY)
	_, err = runtime.RemovePodSandbox(s.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
	s.Ok(err)
	s.Equal("event of the pod", e.next(p.id).ContainerEventType, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
}

// Everyone who listens hears everything, and one who went away disturbs no one.
func TestListeners(t *testing.T) {
	s := begin(t)
	one, two := s.listen(), s.listen()
	for range 3 {
		ctx, cancel := context.WithCancel(s.ctx)
		_, err := runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
		s.Ok(err)
		cancel()
	}
	c := s.pod().run("exit 0")
	for _, e := range []*events{one, two} {
		var got []string
		for range 3 {
			got = append(got, strings.TrimSuffix(e.next(c.id).ContainerEventType.String(), "_EVENT"))
		}
		s.Equal("events", got, "[CONTAINER_CREATED CONTAINER_STARTED CONTAINER_STOPPED]")
	}
}
