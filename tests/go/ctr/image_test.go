package ctr

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPull(t *testing.T) {
	for name, args := range map[string][]string{
		"http by transfer":  {"--plain-http", image},
		"http local":        {"--local", "--plain-http", image},
		"https by transfer": {httpsName},
		"https local":       {"--local", httpsName},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			ref := args[len(args)-1]
			s.ok(append([]string{"image", "pull"}, args...)...)
			s.has(s.ok("image", "ls", "-q"), ref)
			s.has(s.ok("image", "check"), "complete")
			s.has(s.ok("image", "check"), "true")
			s.equal(s.ok("run", "--rm", ref, "c", "echo", "hello"), "hello")
		})
	}
}

func TestPullAllPlatforms(t *testing.T) {
	s := open(t)
	s.ok("image", "pull", "--plain-http", "--all-platforms", image)
	s.has(s.ok("image", "ls", "-q"), image)
}

func TestPullOfNothing(t *testing.T) {
	s := open(t)
	s.fails("not found", "image", "pull", "--plain-http", registry+"/library/nothing:none")
	s.equal(s.ok("image", "ls", "-q"), "")
}

func TestPush(t *testing.T) {
	for name, flags := range map[string][]string{"by transfer": nil, "local": {"--local"}} {
		t.Run(name, func(t *testing.T) {
			s := withImage(t)
			target := registry + "/pushed/" + s.name + ":latest"
			s.ok("image", "tag", image, target)
			s.ok(append(append([]string{"image", "push", "--plain-http"}, flags...), target)...)
			fresh := open(t)
			fresh.ok("image", "pull", "--plain-http", target)
			fresh.equal(fresh.ok("run", "--rm", target, "c", "echo", "back"), "back")
		})
	}
}

func TestTagAndList(t *testing.T) {
	s := withImage(t)
	s.ok("image", "tag", image, "example.com/other:1")
	s.has(s.ok("image", "ls"), "example.com/other:1")
	s.fails("already exists", "image", "tag", "--local", image, "example.com/other:1")
	s.ok("image", "tag", "--force", image, "example.com/other:1")
	s.ok("image", "tag", "--local", image, "example.com/other:2")
	s.has(s.ok("image", "ls", "name==example.com/other:2"), "application/vnd.oci.image")
	s.ok("image", "label", image, "a=b")
	s.has(s.ok("image", "ls", "labels.a==b"), image)
}

func TestRemoveSync(t *testing.T) {
	s := withImage(t)
	s.ok("image", "rm", "--sync", image)
	s.equal(s.ok("content", "ls", "-q"), "")
	s.hasNot(s.ok("snapshot", "ls"), "sha256:")
	s.fails("not found", "run", "--rm", image, "c", "true")
}

func TestExportAndImport(t *testing.T) {
	for name, flags := range map[string][]string{"by transfer": nil, "local": {"--local"}} {
		t.Run(name, func(t *testing.T) {
			s := withImage(t)
			file := filepath.Join(t.TempDir(), "image.tar")
			s.ok(append(append([]string{"image", "export"}, flags...), file, image)...)
			fresh := open(t)
			fresh.ok(append(append([]string{"image", "import"}, flags...), file)...)
			fresh.has(fresh.ok("image", "ls", "-q"), image)
			fresh.equal(fresh.ok("run", "--rm", image, "c", "echo", "imported"), "imported")
		})
	}
}

func TestMountAndUnmount(t *testing.T) {
	s := withImage(t)
	dir := t.TempDir()
	s.ok("image", "mount", image, dir)
	_, err := os.Stat(filepath.Join(dir, "bin", "busybox"))
	s.ok("image", "unmount", "--rm", dir)
	if err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 0 {
		t.Fatalf("%d entries are left after unmount", len(left))
	}
}

func TestUsage(t *testing.T) {
	s := withImage(t)
	s.has(s.ok("image", "usage", image), "MiB")
	s.has(s.ok("image", "usage", "--snapshotter", "overlayfs", image), "iB")
}

func TestContent(t *testing.T) {
	s := withImage(t)
	digests := strings.Fields(s.ok("content", "ls", "-q"))
	if len(digests) < 3 {
		t.Fatalf("an image has an index or manifest, a config and a layer, not %v", digests)
	}
	found := false
	for _, digest := range digests {
		found = found || strings.Contains(s.ok("content", "get", digest), `"rootfs"`)
	}
	if !found {
		t.Fatal("no content is an image's config")
	}
	s.ok("content", "active")
	s.ok("content", "label", digests[0], "a=b")
	s.has(s.ok("content", "ls", "labels.a==b"), digests[0])

	fresh := open(t)
	fresh.ok("content", "fetch", "--plain-http", image)
	fresh.has(fresh.ok("content", "ls", "-q"), "sha256:")
}

func TestContentIngestAndEdit(t *testing.T) {
	s := open(t)
	cmd := s.command("content", "ingest", "some-ref")
	cmd.Stdin = strings.NewReader("hello\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	digest := strings.TrimSpace(s.ok("content", "ls", "-q"))
	s.equal(s.ok("content", "get", digest), "hello")
	edit := s.command("content", "edit", digest)
	edit.Env = append(os.Environ(), "EDITOR=sed -i s/hello/world/")
	out, err := edit.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.equal(s.ok("content", "get", strings.TrimSpace(string(out))), "world")
	s.ok("content", "rm", digest)
	s.fails("not found", "content", "get", digest)
}
