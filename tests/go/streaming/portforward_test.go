package streaming

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// dialers by name.
var dialers = map[string]func(*rest.Config, *url.URL) (httpstream.Dialer, error){
	"spdy": func(config *rest.Config, u *url.URL) (httpstream.Dialer, error) {
		rt, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return spdy.NewDialer(upgrader, &http.Client{Transport: rt}, "POST", u), nil
	},
	"tunnel": func(config *rest.Config, u *url.URL) (httpstream.Dialer, error) {
		return portforward.NewSPDYOverWebsocketDialer(u, config)
	},
}

// forwarder is a running port forward.
type forwarder struct {
	port  uint16
	stop  chan struct{}
	ended chan error
}

func (s *server) forward(name string, port int) *forwarder {
	s.t.Helper()
	dialer, err := dialers[name](s.config, s.url("forward", map[string]any{"ports": []int{port}}))
	check(s.t, err)
	f := &forwarder{stop: make(chan struct{}), ended: make(chan error, 1)}
	ready := make(chan struct{})
	pf, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)},
		f.stop, ready, io.Discard, io.Discard)
	check(s.t, err)
	go func() { f.ended <- pf.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-f.ended:
		s.t.Fatal(err)
	case <-time.After(patience):
		s.t.Fatal("the port forward does not become ready")
	}
	ports, err := pf.GetPorts()
	check(s.t, err)
	f.port = ports[0].Local
	return f
}

func (f *forwarder) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
	check(t, err)
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn.(*net.TCPConn)
}

func (f *forwarder) end(t *testing.T) {
	t.Helper()
	close(f.stop)
	check(t, <-f.ended)
}

func TestForward(t *testing.T) {
	for _, tls := range []bool{false, true} {
		for name := range dialers {
			t.Run(fmt.Sprintf("%s tls=%v", name, tls), func(t *testing.T) {
				var args []string
				if tls {
					args = append([]string{"--tls"}, certificate(t)...)
				}
				s := start(t, args...)
				f := s.forward(name, 8080)
				var wg sync.WaitGroup
				for range 20 {
					wg.Add(1)
					go func() {
						defer wg.Done()
						exchange(t, f)
					}()
				}
				wg.Wait()
				f.end(t)
				s.descriptors()
			})
		}
	}
}

// exchange sends a megabyte through a forwarded connection and compares what comes back.
func exchange(t *testing.T, f *forwarder) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	const size = 1 << 20
	want := sha256.New()
	go func() {
		io.Copy(conn, io.TeeReader(pattern(size), upper{want}))
		conn.(*net.TCPConn).CloseWrite()
	}()
	got := sha256.New()
	n, err := io.Copy(got, conn)
	if err != nil || n != size {
		t.Errorf("%d bytes, %v", n, err)
		return
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

// upper writes as the server answers.
type upper struct{ io.Writer }

func (u upper) Write(p []byte) (int, error) {
	q := bytes.Clone(p)
	for i, b := range q {
		if 'a' <= b && b <= 'z' {
			q[i] = b - 32
		}
	}
	return u.Writer.Write(q)
}

// A connection whose forwarding fails ends; a client whose forwarder leaves takes its connections with it.
func TestForwardEnds(t *testing.T) {
	for name := range dialers {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			base := s.descriptors()
			f := s.forward(name, 1)
			conn := f.dial(t)
			if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
			close(f.stop)
			<-f.ended

			f = s.forward(name, 8080)
			conn = f.dial(t)
			_, err := conn.Write([]byte("hello"))
			check(t, err)
			answer := make([]byte, 5)
			_, err = io.ReadFull(conn, answer)
			check(t, err)
			if string(answer) != "HELLO" {
				t.Fatalf("got %q", answer)
			}
			f.end(t)
			deadline := time.Now().Add(patience)
			for now := s.descriptors(); now > base; now = s.descriptors() {
				if time.Now().After(deadline) {
					t.Fatalf("%d descriptors before, %d after", base, now)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

// certificate writes a certificate of its own and returns the names of its files.
func certificate(t *testing.T) []string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	dir := t.TempDir()
	var files []string
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	for _, name := range []string{"cert.pem", "key.pem"} {
		files = append(files, filepath.Join(dir, name))
	}
	return files
}
