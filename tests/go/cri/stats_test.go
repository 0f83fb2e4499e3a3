package cri

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// busy uses time, memory and disk, says that it has, and stays.
const busy = "head -c 3000000 /dev/urandom >/tmp/file; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; " + idle

// counted checks what a container's figures say of busy.
func (c *container) counted(stats *cri.ContainerStats) {
	c.Helper()
	c.Equal("id", stats.Attributes.Id, c.id)
	c.Equal("attributes", fmt.Sprint(stats.Attributes.Metadata, stats.Attributes.Labels, stats.Attributes.Annotations),
		fmt.Sprint(c.config.Metadata, c.config.Labels, c.config.Annotations))
	age := time.Since(time.Unix(0, stats.Cpu.GetTimestamp()))
	c.truth(age >= 0 && age < time.Minute, "the figures are of %v ago", age)
	c.truth(stats.Cpu.UsageCoreNanoSeconds.GetValue() > 1e6, "time used: %v", stats.Cpu)
	m := stats.Memory
	c.truth(m.WorkingSetBytes.GetValue() > 0 && m.UsageBytes.GetValue() >= m.WorkingSetBytes.GetValue(), "memory: %v", m)
	c.truth(m.PageFaults.GetValue() > 0, "page faults: %v", m)
	c.truth(m.AvailableBytes.GetValue() > 0 && m.AvailableBytes.GetValue() < 64<<20, "memory available of 64 MiB: %v", m)
}

func limited(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 }

func TestContainerStats(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run(busy, limited)
	c.says("done")
	stats := func() *cri.ContainerStats {
		answer, err := runtime.ContainerStats(s.ctx, &cri.ContainerStatsRequest{ContainerId: c.id})
		s.Ok(err)
		return answer.Stats
	}
	c.counted(stats())
	// Some figures are gathered from time to time.
	s.Eventually("the written file is counted", func() (bool, any) {
		layer := stats().WritableLayer
		return layer.GetUsedBytes().GetValue() >= 3000000 && layer.InodesUsed.GetValue() > 0 && strings.HasPrefix(layer.FsId.GetMountpoint(), "/"), layer
	})
	s.Eventually("the rate of use is known", func() (bool, any) {
		list, err := runtime.ListContainerStats(s.ctx, &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{Id: c.id}})
		s.Ok(err)
		s.Equal("figures", len(list.Stats), 1)
		return list.Stats[0].Cpu.UsageNanoCores != nil, list.Stats[0].Cpu
	})
	_, err := runtime.ContainerStats(s.ctx, &cri.ContainerStatsRequest{ContainerId: "unknown"})
	s.refused("figures of an unknown container", err, codes.NotFound)
}

// statsFilter is a filter of figures, and the ids that it leaves.
type statsFilter struct {
	filter *cri.ContainerStatsFilter
	want   []string
}

func statsFilters(s *story) (map[string]statsFilter, *container) {
	s.Helper()
	p, q := s.pod(), s.pod()
	one, two, other := p.run(busy, limited), p.run(idle), q.run(idle)
	one.says("done")
	return map[string]statsFilter{
		"by label":         {&cri.ContainerStatsFilter{LabelSelector: s.labels()}, []string{one.id, two.id, other.id}},
		"of a pod":         {&cri.ContainerStatsFilter{PodSandboxId: p.id}, []string{one.id, two.id}},
		"by id":            {&cri.ContainerStatsFilter{Id: one.id}, []string{one.id}},
		"by id and pod":    {&cri.ContainerStatsFilter{Id: one.id, PodSandboxId: q.id}, nil},
		"by an unknown id": {&cri.ContainerStatsFilter{Id: "unknown"}, nil},
		"by another label": {&cri.ContainerStatsFilter{LabelSelector: map[string]string{"story": "another"}}, nil},
	}, one
}

func (s *story) sameStats(what string, got []*cri.ContainerStats, want []string, counted *container) {
	s.Helper()
	var ids []string
	for _, stats := range got {
		ids = append(ids, stats.Attributes.Id)
		if stats.Attributes.Id == counted.id {
			counted.counted(stats)
		}
	}
	slices.Sort(ids)
	slices.Sort(want)
	s.Equal(what, ids, want)
}

func TestListContainerStats(t *testing.T) {
	s := begin(t)
	filters, counted := statsFilters(s)
	for what, f := range filters {
		list, err := runtime.ListContainerStats(s.ctx, &cri.ListContainerStatsRequest{Filter: f.filter})
		s.Ok(err)
		s.sameStats(what, list.Stats, f.want, counted)
	}
}

func TestStreamContainerStats(t *testing.T) {
	s := begin(t)
	filters, counted := statsFilters(s)
	for what, f := range filters {
		stream, err := runtime.StreamContainerStats(s.ctx, &cri.StreamContainerStatsRequest{Filter: f.filter})
		var got []*cri.ContainerStats
		for _, answer := range gather(s, stream, err) {
			got = append(got, answer.ContainerStats...)
		}
		s.sameStats(what, got, f.want, counted)
	}
}

// countedPod checks what a pod's figures say.
func (p *pod) countedPod(stats *cri.PodSandboxStats, containers ...*container) {
	p.Helper()
	p.Equal("attributes", fmt.Sprint(stats.Attributes.Id, stats.Attributes.Metadata, stats.Attributes.Labels, stats.Attributes.Annotations),
		fmt.Sprint(p.id, p.config.Metadata, p.config.Labels, p.config.Annotations))
	linux := stats.Linux
	p.truth(linux.Cpu.UsageCoreNanoSeconds.GetValue() > 0, "time used: %v", linux.Cpu)
	p.truth(linux.Memory.UsageBytes.GetValue() > 0, "memory: %v", linux.Memory)
	eth0 := linux.Network.GetDefaultInterface()
	p.Equal("interface", eth0.GetName(), "eth0")
	p.truth(eth0.RxBytes.GetValue() > 0 && eth0.TxBytes.GetValue() > 0, "traffic: %v", eth0)
	p.truth(linux.Process.GetProcessCount().GetValue() >= uint64(len(containers)), "processes: %v", linux.Process)
	p.Equal("containers", len(linux.Containers), len(containers))
	for _, c := range containers {
		at := slices.IndexFunc(linux.Containers, func(s *cri.ContainerStats) bool { return s.Attributes.Id == c.id })
		p.truth(at >= 0, "container %s is not among the pod's", c.id)
		c.counted(linux.Containers[at])
	}
}

// talk makes traffic on a pod's interface: a connection that is refused.
func (p *pod) talk() {
	p.Helper()
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort(p.status().Status.Network.GetIp(), "9"), patience); err == nil {
		conn.Close()
	}
}

func TestPodSandboxStats(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c, d := p.run(busy, limited), p.run(busy, limited)
	c.says("done")
	d.says("done")
	p.talk()
	answer, err := runtime.PodSandboxStats(s.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
	s.Ok(err)
	p.countedPod(answer.Stats, c, d)
	_, err = runtime.PodSandboxStats(s.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: "unknown"})
	s.refused("figures of an unknown pod", err, codes.NotFound)
	p.stop()
	_, err = runtime.PodSandboxStats(s.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
	s.refused("figures of a pod that has stopped", err, codes.FailedPrecondition, codes.Unavailable)
}

// podStatsLists calls a list of pods' figures with filters, and checks what it leaves.
func podStatsLists(s *story, list func(*cri.PodSandboxStatsFilter) []*cri.PodSandboxStats) {
	s.Helper()
	p, q := s.pod(), s.pod()
	c := p.run(busy, limited)
	c.says("done")
	p.talk()
	for what, f := range map[string]struct {
		filter *cri.PodSandboxStatsFilter
		want   []string
	}{
		"by label":         {&cri.PodSandboxStatsFilter{LabelSelector: s.labels()}, []string{p.id, q.id}},
		"by id":            {&cri.PodSandboxStatsFilter{Id: p.id}, []string{p.id}},
		"by an unknown id": {&cri.PodSandboxStatsFilter{Id: "unknown"}, nil},
		"by another label": {&cri.PodSandboxStatsFilter{Id: p.id, LabelSelector: map[string]string{"story": "another"}}, nil},
	} {
		var ids []string
		for _, stats := range list(f.filter) {
			ids = append(ids, stats.Attributes.Id)
			if stats.Attributes.Id == p.id {
				p.countedPod(stats, c)
			}
		}
		slices.Sort(ids)
		slices.Sort(f.want)
		s.Equal(what, ids, f.want)
	}
}

func TestListPodSandboxStats(t *testing.T) {
	s := begin(t)
	podStatsLists(s, func(filter *cri.PodSandboxStatsFilter) []*cri.PodSandboxStats {
		answer, err := runtime.ListPodSandboxStats(s.ctx, &cri.ListPodSandboxStatsRequest{Filter: filter})
		s.Ok(err)
		return answer.Stats
	})
}

func TestStreamPodSandboxStats(t *testing.T) {
	s := begin(t)
	podStatsLists(s, func(filter *cri.PodSandboxStatsFilter) (all []*cri.PodSandboxStats) {
		stream, err := runtime.StreamPodSandboxStats(s.ctx, &cri.StreamPodSandboxStatsRequest{Filter: filter})
		for _, answer := range gather(s, stream, err) {
			all = append(all, answer.PodSandboxStats...)
		}
		return all
	})
}

func (s *story) descriptors() map[string]*cri.MetricDescriptor {
	s.Helper()
	answer, err := runtime.ListMetricDescriptors(s.ctx, &cri.ListMetricDescriptorsRequest{})
	s.Ok(err)
	known := map[string]*cri.MetricDescriptor{}
	for _, d := range answer.Descriptors {
		s.truth(d.Help != "" && len(d.LabelKeys) > 0, "a descriptor without help or labels: %v", d)
		s.truth(known[d.Name] == nil || peer, "twice: %v", d)
		known[d.Name] = d
	}
	return known
}

func TestListMetricDescriptors(t *testing.T) {
	s := begin(t)
	known := s.descriptors()
	for _, name := range []string{
		"container_cpu_usage_seconds_total", "container_cpu_user_seconds_total", "container_cpu_system_seconds_total",
		"container_memory_usage_bytes", "container_memory_working_set_bytes", "container_memory_rss", "container_memory_cache",
		"container_network_receive_bytes_total", "container_network_transmit_bytes_total", "container_processes",
		"container_fs_usage_bytes", "container_start_time_seconds", "container_oom_events_total",
	} {
		d := known[name]
		s.truth(d != nil, "no %s among %d", name, len(known))
		for _, key := range []string{"pod", "namespace", "container", "id", "image"} {
			s.truth(slices.Contains(d.LabelKeys, key), "%s has no label %s", name, key)
		}
	}
	s.truth(slices.Contains(known["container_network_receive_bytes_total"].LabelKeys, "interface"), "no interface: %v", known["container_network_receive_bytes_total"])
}

// metricsOf checks the metrics of a pod with one busy container against their descriptors.
func metricsOf(s *story, list func() []*cri.PodSandboxMetrics) {
	s.Helper()
	known := s.descriptors()
	p := s.pod()
	c := p.run(busy, limited)
	c.says("done")
	p.talk()
	var mine *cri.PodSandboxMetrics
	s.Eventually("the container is counted", func() (bool, any) {
		all := list()
		at := slices.IndexFunc(all, func(m *cri.PodSandboxMetrics) bool { return m.PodSandboxId == p.id })
		s.truth(at >= 0, "the pod is not among %d", len(all))
		mine = all[at]
		return len(mine.ContainerMetrics) > 0, mine
	})
	s.Equal("container", mine.ContainerMetrics[0].ContainerId, c.id)
	for _, m := range slices.Concat(mine.Metrics, mine.ContainerMetrics[0].Metrics) {
		d := known[m.Name]
		s.truth(d != nil, "no descriptor of %s", m.Name)
		s.truth(len(m.LabelValues) == len(d.LabelKeys) || peer, "%s has labels %v with values %v", m.Name, d.LabelKeys, m.LabelValues)
		s.truth(m.Timestamp > 0, "no time: %v", m)
	}
	value := func(metrics []*cri.Metric, name string) *cri.Metric {
		s.Helper()
		at := slices.IndexFunc(metrics, func(m *cri.Metric) bool { return m.Name == name })
		s.truth(at >= 0, "no %s", name)
		return metrics[at]
	}
	usage := value(mine.ContainerMetrics[0].Metrics, "container_memory_usage_bytes")
	s.Equal("type", usage.MetricType, cri.MetricType_GAUGE)
	s.truth(usage.Value.GetValue() > 0 && usage.Value.Value < 64<<20, "memory: %v", usage)
	at := func(key string) string {
		return usage.LabelValues[slices.Index(known[usage.Name].LabelKeys, key)]
	}
	s.Equal("pod", at("pod"), p.config.Metadata.Name)
	s.Equal("namespace", at("namespace"), s.name)
	s.Equal("container", at("container"), c.config.Metadata.Name)
	s.Equal("type", value(mine.ContainerMetrics[0].Metrics, "container_cpu_usage_seconds_total").MetricType, cri.MetricType_COUNTER)
	s.truth(value(mine.Metrics, "container_network_receive_bytes_total").Value.GetValue() > 0, "no traffic")
}

func TestListPodSandboxMetrics(t *testing.T) {
	s := begin(t)
	metricsOf(s, func() []*cri.PodSandboxMetrics {
		answer, err := runtime.ListPodSandboxMetrics(s.ctx, &cri.ListPodSandboxMetricsRequest{})
		s.Ok(err)
		return answer.PodMetrics
	})
}

func TestStreamPodSandboxMetrics(t *testing.T) {
	s := begin(t)
	metricsOf(s, func() (all []*cri.PodSandboxMetrics) {
		stream, err := runtime.StreamPodSandboxMetrics(s.ctx, &cri.StreamPodSandboxMetricsRequest{})
		for _, answer := range gather(s, stream, err) {
			all = append(all, answer.PodSandboxMetrics...)
		}
		return all
	})
}
