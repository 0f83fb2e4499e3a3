// Package cri calls each of CRI's 41 RPCs as a kubelet does, through k8s.io/cri-api and client-go. It passes against a
// stock containerd as well, which proves the tests.
//
// WINDLASS_ADDRESS is the daemon's socket. PEER=containerd says that a containerd answers: the six streaming lists are
// then expected to be unimplemented, a name that is taken to be refused, errors without a class are let pass, and what
// needs the newest protocols over WebSocket (the end of input, forwarded ports) is left out. IMAGE is a busybox image; TAGGED the
// repository of an image under the tags 1, 2 and 3, which nothing else uses: the suite removes it.
package cri

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"windlass.dev/tests/go/check"
)

// patience is how long a test waits for anything.
const patience = 30 * time.Second

var (
	address  = strings.TrimPrefix(os.Getenv("WINDLASS_ADDRESS"), "unix://")
	peer     = os.Getenv("PEER") == "containerd"
	image    = check.Or("IMAGE", "registry.k8s.io/e2e-test-images/busybox:1.29-2")
	tagged   = check.Or("TAGGED", "gcr.io/k8s-staging-cri-tools/test-image-tags")
	run      = fmt.Sprintf("%d", os.Getpid())
	runtime  cri.RuntimeServiceClient
	images   cri.ImageServiceClient
	imageRef string
	asked    = calls{seen: map[string]bool{}}
)

func TestMain(m *testing.M) {
	if address == "" {
		fmt.Fprintln(os.Stderr, "set WINDLASS_ADDRESS to the daemon's socket")
		os.Exit(2)
	}
	// What client-go has to say of streams that end is no news here.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	code, err := suite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// suite runs the tests with the image at hand, and after a whole run holds that no RPC was left out.
func suite(m *testing.M) (int, error) {
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(asked.unary), grpc.WithStreamInterceptor(asked.stream))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	runtime, images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	spec := &cri.ImageSpec{Image: image}
	before, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
	if err != nil {
		return 0, err
	}
	pulled, err := images.PullImage(ctx, &cri.PullImageRequest{Image: spec})
	if err != nil {
		return 0, err
	}
	imageRef = pulled.ImageRef
	if before.Image == nil {
		defer images.RemoveImage(context.Background(), &cri.RemoveImageRequest{Image: spec})
	}
	code := m.Run()
	if left := asked.missing(); code == 0 && whole() && len(left) > 0 {
		return 1, fmt.Errorf("no test called %s", strings.Join(left, ", "))
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

// calls remembers which RPCs were answered: with success, or by a peer that does not know them.
type calls struct {
	mutex sync.Mutex
	seen  map[string]bool
}

func (c *calls) note(method string, err error) {
	if err == nil || peer && status.Code(err) == codes.Unimplemented {
		c.mutex.Lock()
		c.seen[method] = true
		c.mutex.Unlock()
	}
}

func (c *calls) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, conn, opts...)
	// A checkpoint needs CRIU; the machine may lack it, and a clear refusal is an answer, too.
	if method == cri.RuntimeService_CheckpointContainer_FullMethodName {
		c.note(method, nil)
	}
	c.note(method, err)
	return err
}

func (c *calls) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return &noted{ClientStream: s, calls: c, method: method}, nil
}

// noted notes a stream's method with the first message.
type noted struct {
	grpc.ClientStream
	calls  *calls
	method string
}

func (n *noted) RecvMsg(m any) error {
	err := n.ClientStream.RecvMsg(m)
	n.calls.note(n.method, err)
	return err
}

func (c *calls) missing() []string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var left []string
	for _, service := range []grpc.ServiceDesc{cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc} {
		var names []string
		for _, m := range service.Methods {
			names = append(names, m.MethodName)
		}
		for _, s := range service.Streams {
			names = append(names, s.StreamName)
		}
		for _, name := range names {
			if !c.seen["/"+service.ServiceName+"/"+name] {
				left = append(left, name)
			}
		}
	}
	sort.Strings(left)
	return left
}
