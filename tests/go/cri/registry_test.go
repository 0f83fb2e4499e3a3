package cri

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// registry serves one image without layers to those who know its password; it answers where that is.
func registry(t *testing.T, user, password string) string {
	t.Helper()
	blobs := map[string]string{}
	blob := func(text string) (digest string) {
		digest = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
		blobs[digest] = text
		return digest
	}
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","author":%q,"config":{"User":"www","Volumes":{"/data":{}}},"rootfs":{"type":"layers","diff_ids":[]}}`, t.Name())
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, blob(config), len(config))
	digest := blob(manifest)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gotUser, gotPassword, _ := r.BasicAuth()
		if gotUser != user || gotPassword != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		if name == "latest" {
			name = digest
		}
		text, there := blobs[name]
		if !there {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if name == digest {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		}
		w.Header().Set("Docker-Content-Digest", name)
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		if r.Method != http.MethodHead {
			fmt.Fprint(w, text)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// Credentials come with the request, in either of two forms.
func TestPullWithCredentials(t *testing.T) {
	s := begin(t)
	host := registry(t, "someone", "s3cret: and more")
	name := host + "/private/image:latest"
	pull := func(auth *cri.AuthConfig) (string, error) {
		answer, err := images.PullImage(s.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}, Auth: auth})
		return answer.GetImageRef(), err
	}
	denied := []codes.Code{codes.PermissionDenied, codes.Unauthenticated, codes.NotFound}
	_, err := pull(nil)
	s.refused("no credentials", err, denied...)
	_, err = pull(&cri.AuthConfig{Username: "someone", Password: "wrong"})
	s.refused("a wrong password", err, denied...)
	s.truth(err == nil || !strings.Contains(err.Error(), "wrong"), "the error tells the password: %v", err)
	_, err = pull(&cri.AuthConfig{Username: "someone", Password: "s3cret: and more", ServerAddress: "https://elsewhere.example.com"})
	s.refused("the credentials of another registry", err, denied...)
	s.truth(s.image(name) == nil, "a refused pull leaves an image")

	id, err := pull(&cri.AuthConfig{Username: "someone", Password: "s3cret: and more", ServerAddress: "http://" + host})
	s.Ok(err)
	s.Equal("user of the image", s.image(name).GetUsername(), "www")
	s.forget(id)
	id, err = pull(&cri.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("someone:s3cret: and more"))})
	s.Ok(err)
	s.forget(id)
	s.truth(s.image(name) == nil, "still there after its removal")
}
