package cri

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVersion(t *testing.T) {
	s := begin(t)
	// The kubelet sends the version of its own side of the interface, and older ones an empty text.
	for _, version := range []string{"", "0.1.0", "v1"} {
		answer, err := runtime.Version(s.ctx, &cri.VersionRequest{Version: version})
		s.Ok(err)
		s.Equal("version of the kubelet's interface", answer.Version, "0.1.0")
		s.Equal("version of the interface", answer.RuntimeApiVersion, "v1")
		s.truth(answer.RuntimeName != "" && answer.RuntimeVersion != "", "no name or version: %v", answer)
	}
}

func TestStatus(t *testing.T) {
	s := begin(t)
	answer, err := runtime.Status(s.ctx, &cri.StatusRequest{})
	s.Ok(err)
	s.truth(len(answer.Info) == 0, "verbose without being asked: %v", answer.Info)
	conditions := map[string]bool{}
	for _, c := range answer.Status.Conditions {
		conditions[c.Type] = c.Status
		s.truth(c.Status || c.Reason != "", "a condition that does not hold gives its reason: %v", c)
	}
	s.truth(conditions["RuntimeReady"] && conditions["NetworkReady"], "not ready: %v", answer.Status.Conditions)
	s.truth(answer.Features.GetSupplementalGroupsPolicy(), "features: %v", answer.Features)

	handlers := map[string]*cri.RuntimeHandlerFeatures{}
	for _, h := range answer.RuntimeHandlers {
		handlers[h.Name] = h.Features
	}
	s.truth(handlers[""].GetUserNamespaces() && handlers[""].GetRecursiveReadOnlyMounts(), "the default handler: %v", answer.RuntimeHandlers)
	s.truth(handlers["runc"] != nil, "no handler runc: %v", answer.RuntimeHandlers)

	answer, err = runtime.Status(s.ctx, &cri.StatusRequest{Verbose: true})
	s.Ok(err)
	config := s.info(answer.Info, "config")
	name := dig(config, "containerd", "defaultRuntimeName")
	s.truth(name != nil && handlers[name.(string)] != nil, "the default runtime is %v of %v", name, handlers)
	s.truth(dig(s.info(answer.Info, "cniconfig"), "Networks") != nil, "no networks: %s", answer.Info["cniconfig"])
}

func TestRuntimeConfig(t *testing.T) {
	s := begin(t)
	answer, err := runtime.RuntimeConfig(s.ctx, &cri.RuntimeConfigRequest{})
	s.Ok(err)
	want := cri.CgroupDriver_CGROUPFS
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		want = cri.CgroupDriver_SYSTEMD
	}
	s.Equal("driver of cgroups", answer.GetLinux().GetCgroupDriver(), want)
}

func TestUpdateRuntimeConfig(t *testing.T) {
	s := begin(t)
	update := func(cidr string) error {
		_, err := runtime.UpdateRuntimeConfig(s.ctx, &cri.UpdateRuntimeConfigRequest{
			RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: cidr}}})
		return err
	}
	s.Ok(update(""))
	s.Ok(update("10.250.0.0/24"))
	s.Ok(update("10.250.0.0/24, 2001:db8::/64"))
	s.refused("no range of addresses", update("10.250.0.0/99"), codes.InvalidArgument)
	// Without a template to fill, the node's network is not ours to change.
	answer, err := runtime.Status(s.ctx, &cri.StatusRequest{})
	s.Ok(err)
	for _, c := range answer.Status.Conditions {
		s.truth(c.Status || c.Type != "NetworkReady", "after the update: %v", c)
	}
}

func TestCheckpointContainer(t *testing.T) {
	s := begin(t)
	c := s.pod().run(idle)
	archive := filepath.Join(s.dir, "checkpoint.tar")
	_, err := runtime.CheckpointContainer(s.ctx, &cri.CheckpointContainerRequest{ContainerId: c.id, Location: archive})
	if err == nil {
		info, err := os.Stat(archive)
		s.Ok(err)
		s.truth(info.Size() > 0, "the archive is empty")
	} else {
		s.truth(status.Convert(err).Message() != "", "no reason given: %v", err)
		s.refused("checkpoint without CRIU", err, codes.FailedPrecondition, codes.Unimplemented)
		_, err := os.Stat(archive)
		s.truth(os.IsNotExist(err), "a refused checkpoint leaves a file")
	}
	s.Equal("state", c.status().State, cri.ContainerState_CONTAINER_RUNNING)
	s.Equal("the container still answers", c.sh("echo here"), "here")
	_, err = runtime.CheckpointContainer(s.ctx, &cri.CheckpointContainerRequest{ContainerId: "unknown", Location: archive})
	s.refused("checkpoint of what is not there", err, codes.NotFound, codes.FailedPrecondition, codes.Unimplemented)
}
