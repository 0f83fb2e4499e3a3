package cri

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (s *story) pull(name string) string {
	s.Helper()
	answer, err := images.PullImage(s.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
	s.Ok(err)
	return answer.ImageRef
}

func (s *story) image(name string) *cri.Image {
	s.Helper()
	answer, err := images.ImageStatus(s.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	s.Ok(err)
	return answer.Image
}

func (s *story) forget(name string) {
	s.Helper()
	_, err := images.RemoveImage(s.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}})
	s.Ok(err)
}

// tags pulls the image that has three tags. Who pulls it owns it until the end of the test.
var tags sync.Mutex

func (s *story) tags() (names []string, id string) {
	s.Helper()
	tags.Lock()
	for _, tag := range []string{"1", "2", "3"} {
		names = append(names, tagged+":"+tag)
	}
	s.Cleanup(func() {
		defer tags.Unlock()
		for _, name := range names {
			s.forget(name)
		}
	})
	for _, name := range names {
		ref := s.pull(name)
		s.truth(id == "" || id == ref, "%s and %s are one image", id, ref)
		id = ref
	}
	return names, id
}

func TestPullImage(t *testing.T) {
	s := begin(t)
	names, id := s.tags()
	s.truth(strings.HasPrefix(id, "sha256:"), "the id is %q", id)
	got := s.image(names[0])
	s.Equal("id", got.Id, id)
	slices.Sort(got.RepoTags)
	s.Equal("tags", got.RepoTags, names)
	s.truth(len(got.RepoDigests) == 1 && strings.HasPrefix(got.RepoDigests[0], tagged+"@sha256:"), "digests: %v", got.RepoDigests)
	s.truth(got.Size > 0, "size: %d", got.Size)
	s.Equal("pulled by digest", s.pull(got.RepoDigests[0]), id)
	s.Equal("pulled again", s.pull(names[0]), id)

	refs, errs := together(4, func() (string, error) {
		answer, err := images.PullImage(s.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: names[1]}})
		return answer.GetImageRef(), err
	})
	s.truth(len(errs) == 0, "pulls together: %v", errs)
	s.Equal("pulls together", refs, []string{id})

	pull := func(name string) error {
		_, err := images.PullImage(s.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
		return err
	}
	s.refused("a tag that is not there", pull(tagged+":no-such-tag"), codes.NotFound)
	s.refused("no name of an image", pull("UPPER CASE"), codes.InvalidArgument)
	s.refused("nothing", pull(""), codes.InvalidArgument)
	s.truth(s.image(tagged+":no-such-tag") == nil, "a failed pull leaves an image")
}

func TestListImages(t *testing.T) {
	s := begin(t)
	names, id := s.tags()
	list := func(name string) []*cri.Image {
		answer, err := images.ListImages(s.ctx, &cri.ListImagesRequest{Filter: &cri.ImageFilter{Image: &cri.ImageSpec{Image: name}}})
		s.Ok(err)
		return answer.Images
	}
	listed(s, names, id, list)
}

func TestStreamImages(t *testing.T) {
	s := begin(t)
	names, id := s.tags()
	listed(s, names, id, func(name string) (all []*cri.Image) {
		stream, err := images.StreamImages(s.ctx, &cri.StreamImagesRequest{Filter: &cri.ImageFilter{Image: &cri.ImageSpec{Image: name}}})
		for _, answer := range gather(s, stream, err) {
			all = append(all, answer.Images...)
		}
		return all
	})
}

// listed: once with all names, by any of them; and what the list says is what the status says.
func listed(s *story, names []string, id string, list func(name string) []*cri.Image) {
	s.Helper()
	is := func(i *cri.Image) bool { return i.Id == id }
	all := list("")
	s.truth(len(all) >= 2 && slices.ContainsFunc(all, is), "%s is not among %d", id, len(all))
	s.Equal("mentions", len(slices.DeleteFunc(slices.Clone(all), func(i *cri.Image) bool { return !is(i) })), 1)
	if peer { // which does not look at the filter
		return
	}
	for _, name := range append(names, id) {
		got := list(name)
		s.truth(len(got) == 1 && is(got[0]), "by %s: %v", name, got)
		s.Equal("image", describe(got[0]), describe(s.image(name)))
	}
	s.Equal("by an unknown name", len(list("example.com/no/such:image")), 0)
}

func describe(i *cri.Image) string {
	slices.Sort(i.RepoTags)
	return fmt.Sprint(i.Id, i.RepoTags, i.RepoDigests, i.Size, i.Uid, i.Username, i.Pinned)
}

func TestImageStatus(t *testing.T) {
	s := begin(t)
	answer, err := images.ImageStatus(s.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}, Verbose: true})
	s.Ok(err)
	s.Equal("id", answer.Image.Id, imageRef)
	s.truth(slices.Contains(answer.Image.RepoTags, image), "tags: %v", answer.Image.RepoTags)
	info := s.info(answer.Info, "info")
	s.truth(strings.HasPrefix(fmt.Sprint(info["chainID"]), "sha256:"), "chain: %v", info["chainID"])
	s.truth(dig(info, "imageSpec", "architecture") != nil && dig(info, "imageSpec", "config") != nil, "configuration: %v", info)
	s.Equal("by id", s.image(imageRef).GetId(), imageRef)
	s.Equal("by a part of the id", s.image(strings.TrimPrefix(imageRef, "sha256:")[:12]).GetId(), imageRef)
	s.Equal("by digest", s.image(answer.Image.RepoDigests[0]).GetId(), imageRef)
	s.truth(s.image("example.com/no/such:image") == nil, "an unknown image")
	plain, err := images.ImageStatus(s.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
	s.Ok(err)
	s.truth(len(plain.Info) == 0, "verbose without being asked: %v", plain.Info)
}

func TestRemoveImage(t *testing.T) {
	s := begin(t)
	names, id := s.tags()
	// By one name, the image goes with all of its names, and again is no error.
	s.forget(names[1])
	for _, name := range append(names, id) {
		s.truth(s.image(name) == nil, "%s is still there", name)
	}
	s.forget(names[1])
	s.forget(id)
	s.forget("example.com/no/such:image")
	s.Equal("pulled again", s.pull(names[0]), id)
	s.forget(id)
	s.truth(s.image(names[0]) == nil, "still there after removal by id")
	// An image that a container runs from may go; the container stays.
	p := s.pod()
	s.pull(names[0])
	c := p.run(idle, func(c *cri.ContainerConfig) { c.Image.Image = id })
	s.forget(id)
	s.Equal("the container still answers", c.sh("echo here"), "here")
	s.Equal("its image", c.status().ImageId, id)
}

func TestImageFsInfo(t *testing.T) {
	s := begin(t)
	s.Eventually("usage is known", func() (bool, any) {
		answer, err := images.ImageFsInfo(s.ctx, &cri.ImageFsInfoRequest{})
		s.Ok(err)
		s.truth(len(answer.ImageFilesystems) > 0, "no filesystems: %v", answer)
		for _, list := range [][]*cri.FilesystemUsage{answer.ImageFilesystems, answer.ContainerFilesystems} {
			for _, fs := range list {
				if fs.UsedBytes.GetValue() == 0 || fs.InodesUsed.GetValue() == 0 {
					return false, answer
				}
				info, err := os.Stat(fs.FsId.GetMountpoint())
				s.truth(err == nil && info.IsDir() && fs.Timestamp > 0, "%v: %v", fs, err)
			}
		}
		return true, answer
	})
}

// An image volume shows an image's files, and nothing that is written there.
func TestImageVolume(t *testing.T) {
	s := begin(t)
	c := s.pod().run(idle, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/image", Image: &cri.ImageSpec{Image: imageRef}, Readonly: true}}
	})
	s.Equal("files", c.sh("ls /image"), strings.ReplaceAll(c.sh("ls /image"), "\t", ""))
	s.Has(c.sh("ls /image"), "bin")
	s.Has(c.sh("touch /image/x 2>&1 || true"), "ead-only")
	s.Equal("mounted image", c.status().Mounts[0].Image.GetImage(), imageRef)
}
