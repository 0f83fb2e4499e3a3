package crictl

import (
	"fmt"
	"strings"
	"testing"
)

// The tests on images have the daemon to themselves: crictl removes an image with all its names.
func TestImages(t *testing.T) {
	s := alone(t)
	ref := strings.TrimPrefix(s.do("pull", other), "Image is up to date for ")
	s.Has(ref, "sha256:")
	s.Equal("again", s.do("pull", other), "Image is up to date for "+ref)
	repository, tag := other[:strings.LastIndex(other, ":")], other[strings.LastIndex(other, ":")+1:]
	shown := s.json("inspecti", other)
	id := fmt.Sprint(dig(shown, "status", "id"))
	digest := fmt.Sprint(dig(shown, "status", "repoDigests", 0))
	s.Equal("by id", dig(s.json("inspecti", id), "status", "id"), id)
	s.Equal("by the beginning of an id", dig(s.json("inspecti", strings.TrimPrefix(id, "sha256:")[:13]), "status", "id"), id)
	s.Equal("by digest", dig(s.json("inspecti", digest), "status", "id"), id)
	s.Equal("names", dig(shown, "status", "repoTags"), []string{other})
	s.Equal("platform", dig(shown, "info", "imageSpec", "os"), "linux")
	s.Equal("quiet", dig(s.json("inspecti", "-q", other), "info"), nil)
	s.Equal("template", s.do("inspecti", "-o", "go-template", "--template", "{{.status.id}}", other), id)
	s.Has(s.do("inspecti", "-o", "yaml", other), "id: "+id)
	s.Has(s.do("inspecti", "-o", "table", other), "ID: "+id)
	s.Equal("by digest", s.do("pull", digest), "Image is up to date for "+ref)

	table := s.do("images")
	s.Has(table, "IMAGE ID")
	s.Has(table, strings.TrimPrefix(id, "sha256:")[:13])
	s.Has(table, image[:strings.LastIndex(image, ":")])
	row := strings.Fields(strings.Split(s.do("images", "--no-trunc", "--digests", other), "\n")[1])
	s.Equal("row", strings.Join(row[:4], " "), strings.Join([]string{repository, tag, digest[strings.Index(digest, "@")+1:], id}, " "))
	s.Has(s.do("images", "--pinned"), "PINNED")
	if !peer { // which lists them all, whatever is asked for
		s.Equal("one name", s.do("images", "-q", "--no-trunc", other), id)
	}
	s.Equal("filtered", s.do("images", "-q", "--no-trunc", "--filter", "reference=.*"+strings.ReplaceAll(repository, ".", `\.`)+".*"), id)
	s.Equal("filtered", s.do("images", "-q", "--filter", "dangling=true"), "")
	s.Equal("json", dig(s.json("images", "-o", "json", other), "images", 0, "id"), id)
	s.Has(s.do("images", "-o", "yaml", other), "id: "+id)
	s.Has(s.do("images", "-v", other), "ID: "+id)

	s.Has(s.do("rmi", other), "Deleted: "+other)
	s.fails("no such image", "inspecti", other)
	s.fails("no such image", "rmi", other)
	s.fails("", "pull", "registry.k8s.io/no-such-image:1")
	s.fails("", "pull", "Not A Reference")
}

// Only what nobody uses goes with a prune.
func TestPrune(t *testing.T) {
	s := alone(t)
	s.do("pull", other)
	used := fmt.Sprint(dig(s.json("inspecti", image), "status", "id"))
	p := s.pod()
	c := p.run(idle, nil)
	s.Has(s.do("rmi", "--prune"), other)
	s.fails("no such image", "inspecti", other)
	s.Equal("what is used", dig(s.json("inspecti", image), "status", "id"), used)
	s.Equal("the container goes on", c.sh("echo here"), "here")
}

// "All" is all that the daemon has.
func TestAll(t *testing.T) {
	s := alone(t)
	p, q := s.pod(), s.pod()
	c, d, e := p.run(idle, nil), q.run(idle, nil), q.create(idle, nil)
	stopped := s.do("stop", "--all", "--timeout", "10")
	s.Has(stopped, c.id)
	s.Has(stopped, d.id)
	s.hasNot(stopped, e.id)
	s.Equal("running", s.do("ps", "-q"), "")
	s.Has(s.do("stop", "--all"), "No running containers")
	s.do("rm", "--all")
	s.Equal("containers", s.do("ps", "-a", "-q"), "")
	s.do("rmp", "--all", "--force")
	s.Equal("pods", s.do("pods", "-q"), "")
	s.do("rmi", "--all")
	s.Equal("images", s.do("images", "-q", "--filter", "reference=.*busybox.*"), "")
	s.do("pull", image)
}
