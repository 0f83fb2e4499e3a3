// Package kubelet looks at pods that a real kubelet runs on windlass. scripts/kubelet.sh starts both, hands the kubelet
// the manifests in pods/, and calls these tests in turn; without it there is nothing to look at.
package kubelet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	core "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is for a machine that has other work.
const patience = 150 * time.Second

// node is where the pods run. Static pods carry its name.
type node struct {
	url, work string
	runtime   cri.RuntimeServiceClient
	http      *http.Client
}

func open(t *testing.T) *node {
	t.Helper()
	url := os.Getenv("KUBELET_URL")
	if url == "" {
		t.Skip("KUBELET_URL is not set: scripts/kubelet.sh calls this")
	}
	conn, err := grpc.NewClient("unix://"+os.Getenv("WINDLASS_ADDRESS"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	// The kubelet's certificate is its own work.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &node{
		url: url, work: os.Getenv("KUBELET_WORK"),
		runtime: cri.NewRuntimeServiceClient(conn),
		http:    &http.Client{Transport: transport},
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) get(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, "GET", n.url+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := n.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, fmt.Errorf("%s: %s: %s", path, response.Status, text)
	}
	return response.Body, nil
}

// pods tells what the kubelet says of its pods, by the name in the manifest.
func (n *node) pods() (map[string]*core.Pod, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	body, err := n.get(ctx, "/pods")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var list core.PodList
	if err := json.NewDecoder(body).Decode(&list); err != nil {
		return nil, err
	}
	pods := map[string]*core.Pod{}
	for i := range list.Items {
		pods[strings.TrimSuffix(list.Items[i].Name, "-node1")] = &list.Items[i]
	}
	return pods, nil
}

// until waits for what `is` asks of a pod; it returns "" when there is no more to ask.
func (n *node) until(t *testing.T, pod string, is func(*core.Pod) string) *core.Pod {
	t.Helper()
	want := "not asked yet"
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		pods, err := n.pods()
		if err != nil {
			want = err.Error()
			continue
		}
		if pods[pod] == nil {
			want = "there is no such pod"
			continue
		}
		if want = is(pods[pod]); want == "" {
			return pods[pod]
		}
	}
	t.Fatalf("%s: %s", pod, want)
	return nil
}

// ready asks for all containers but those named.
func ready(except ...string) func(*core.Pod) string {
	return func(pod *core.Pod) string {
		if len(pod.Status.ContainerStatuses) != len(pod.Spec.Containers) {
			return fmt.Sprintf("phase %s, %d containers have a status", pod.Status.Phase, len(pod.Status.ContainerStatuses))
		}
		for _, c := range pod.Status.ContainerStatuses {
			if !c.Ready && !strings.Contains(strings.Join(except, " "), c.Name) {
				return fmt.Sprintf("%s is not ready: %+v, last %+v", c.Name, state(c.State), state(c.LastTerminationState))
			}
		}
		return ""
	}
}

func state(s core.ContainerState) string {
	text, _ := json.Marshal(s)
	return string(text)
}

func status(t *testing.T, pod *core.Pod, container string) *core.ContainerStatus {
	t.Helper()
	for _, list := range [][]core.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				return &list[i]
			}
		}
	}
	t.Fatalf("%s has no container %s", pod.Name, container)
	return nil
}

// equal compares texts.
func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, expected %q", what, got, want)
	}
}

// shared reads a file that pods wrote.
func (n *node) shared(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.work, "shared", name))
	check(t, err)
	return string(text)
}
