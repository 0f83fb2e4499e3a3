package crictl

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestPodLife(t *testing.T) {
	s := begin(t)
	p := s.pod()
	shown := s.json("inspectp", p.id)
	s.Equal("state", dig(shown, "status", "state"), "SANDBOX_READY")
	s.Equal("name", dig(shown, "status", "metadata", "name"), p.name)
	s.Equal("attempt", dig(shown, "status", "metadata", "attempt"), 1)
	s.Equal("labels", dig(shown, "status", "labels"), object{"story": s.name, "pod": p.name})
	s.Equal("annotations", dig(shown, "status", "annotations"), object{"example.com/note": "a note"})
	_, err := netip.ParseAddr(fmt.Sprint(dig(shown, "status", "network", "ip")))
	s.Ok(err)
	s.Equal("information", dig(shown, "info", "config", "metadata", "name"), p.name)
	s.Equal("quiet", dig(s.json("inspectp", "-q", p.id), "info", "config"), nil)
	s.Equal("template", s.do("inspectp", "-o", "go-template", "--template", "{{.status.metadata.namespace}}", p.id), s.name)
	s.Has(s.do("inspectp", "-o", "yaml", p.id), "state: SANDBOX_READY")
	s.Has(s.do("inspectp", "-o", "table", p.id), "Name: "+p.name)
	s.Equal("by label", dig(s.json("inspectp", "--label", "pod="+p.name), "status", "id"), p.id)

	c := p.run(idle, nil)
	s.fails("is running, please stop it first", "rmp", p.id)
	s.Has(s.do("stopp", p.id), p.id)
	s.Has(s.do("stopp", p.id), p.id) // a second time
	s.Equal("state", dig(s.json("inspectp", p.id), "status", "state"), "SANDBOX_NOTREADY")
	s.Equal("its container", c.inspect("status", "state"), "CONTAINER_EXITED")
	s.Has(s.do("rmp", p.id), p.id)
	s.fails("NotFound", "inspectp", p.id)
	s.fails("NotFound", "inspect", c.id)

	running := s.pod()
	running.run(idle, nil)
	s.Has(s.do("rmp", "--force", running.id), running.id)
	s.Equal("pods", s.do("pods", "-q", "--label", "story="+s.name), "")
	s.Equal("containers", s.do("ps", "-a", "-q", "--label", "story="+s.name), "")
}

func TestPodRefusals(t *testing.T) {
	s := begin(t)
	s.fails("not found", "runp", s.dir+"/no-such-file.json")
	s.fails("metadata is not set", "runp", s.write("empty.json", object{}))
	s.fails("unheard-of", "runp", "--runtime", "unheard-of", s.podConfig(nil).file)
	s.fails("NotFound", "inspectp", "unknown")
	s.fails("NotFound", "rmp", "unknown")
	s.Equal("pods", s.do("pods", "-q", "--label", "story="+s.name), "")
}

// A handler is named, a configuration may be YAML, and the host's network needs no address of the pod's own.
func TestPodKinds(t *testing.T) {
	s := begin(t)
	p := s.podConfig(object{"linux": object{"cgroup_parent": "/" + s.name,
		"security_context": object{"namespace_options": object{"network": 2}}}})
	text := fmt.Sprintf("metadata: {name: %s, uid: %s, namespace: %s}\nlog_directory: %s\nlabels: {story: %s}\n"+
		"linux: {cgroup_parent: /%s, security_context: {namespace_options: {network: 2}}}\n", p.name, p.name, s.name, p.logs, s.name, s.name)
	file := s.dir + "/pod.yaml"
	s.Ok(os.WriteFile(file, []byte(text), 0o600))
	p.file = file
	p.id = s.do("runp", "--runtime", "runc", "--cancel-timeout", "20s", file)
	s.goes(p.id)
	s.Equal("handler", dig(s.json("inspectp", p.id), "status", "runtimeHandler"), "runc")
	host, err := os.Readlink("/proc/self/ns/net")
	s.Ok(err)
	s.Equal("network", p.run(idle, object{"linux": object{"security_context": object{"namespace_options": object{"network": 2}}}}).sh("readlink /proc/self/ns/net"), host)
}

func TestPods(t *testing.T) {
	s := begin(t)
	first, second := s.pod(), s.pod()
	second.do("stopp", second.id)
	mine := "story=" + s.name
	list := func(args ...string) string {
		return strings.Join(strings.Fields(s.do(append([]string{"pods", "-q", "--no-trunc", "--label", mine}, args...)...)), " ")
	}
	s.Equal("newest first", list(), second.id+" "+first.id)
	s.Equal("by state", list("--state", "ready"), first.id)
	s.Equal("by state", list("--state", "notready"), second.id)
	s.Equal("by name", list("--name", "^"+first.name+"$"), first.id)
	s.Equal("by namespace", list("--namespace", "^"+s.name+"$"), second.id+" "+first.id)
	s.Equal("by namespace", list("--namespace", "^elsewhere$"), "")
	s.Equal("by id", list("--id", first.id), first.id)
	s.Equal("by the beginning of an id", list("--id", first.id[:13]), first.id)
	s.Equal("by label", list("--label", "pod="+second.name), second.id)
	s.Equal("latest", list("--latest"), second.id)
	s.Equal("last", list("--last", "1"), second.id)
	table := s.do("pods", "--label", mine)
	s.Has(table, "POD ID")
	s.Has(table, first.id[:13]+" ")
	s.Has(table, "NotReady")
	s.Has(s.do("pods", "-v", "--label", mine), "ID: "+first.id)
	s.Equal("json", dig(s.json("pods", "-o", "json", "--label", "pod="+first.name), "items", 0, "metadata", "uid"), s.name+"-"+first.name)
	s.Has(s.do("pods", "-o", "yaml", "--label", mine), "uid: "+s.name+"-"+first.name)
}

func TestPodStats(t *testing.T) {
	s := begin(t)
	p := s.pod()
	c := p.run("i=0; while :; do i=$((i+1)); done", nil)
	mine := "pod=" + p.name
	s.Eventually("the pod uses time and memory", func() (bool, any) {
		stats := dig(s.json("statsp", "-o", "json", "--label", mine), "stats", 0)
		text := fmt.Sprint(dig(stats, "linux", "cpu", "usageCoreNanoSeconds", "value"), " ", dig(stats, "linux", "memory", "workingSetBytes", "value"))
		return dig(stats, "attributes", "id") == p.id && !strings.Contains(" "+text, " 0") && !strings.Contains(text, "nil"), stats
	})
	stats := s.json("statsp", "-o", "json", "--id", p.id)
	s.Equal("container", dig(stats, "stats", 0, "linux", "containers", 0, "attributes", "id"), c.id)
	s.Equal("interface", dig(stats, "stats", 0, "linux", "network", "defaultInterface", "name"), "eth0")
	s.Has(s.do("statsp", "-o", "yaml", "--id", p.id), "id: "+p.id)
	table := s.do("statsp", "--seconds", "1", "--id", p.id)
	s.Has(table, "CPU %")
	s.Has(table, p.id[:13])

	s.Eventually("the container uses time and memory", func() (bool, any) {
		stats := dig(s.json("stats", "-o", "json", "--id", c.id), "stats", 0)
		text := fmt.Sprint(dig(stats, "cpu", "usageCoreNanoSeconds", "value"), " ", dig(stats, "memory", "workingSetBytes", "value"))
		return dig(stats, "attributes", "id") == c.id && !strings.Contains(" "+text, " 0") && !strings.Contains(text, "nil"), stats
	})
	s.Equal("of the pod", dig(s.json("stats", "-o", "json", "--pod", p.id), "stats", 0, "attributes", "metadata", "name"), c.name)
	s.Has(s.do("stats", "-o", "yaml", "--label", "container="+c.name), "id: "+c.id)
	table = s.do("stats", "--seconds", "1", c.id)
	s.Has(table, "CPU %")
	row := strings.Fields(table[strings.Index(table, c.id[:13]):])
	s.Equal("name", row[1], c.name)
	if row[2] == "0.00" {
		s.Errorf("a loop takes no time: %s", table)
	}

	descriptors := s.json("metricdescs")
	if len(dig(descriptors, "descriptors").([]any)) == 0 {
		s.Fatalf("no descriptors: %v", descriptors)
	}
	s.Equal("metrics", dig(s.json("metricsp"), "podMetrics") != nil, true)
	s.Has(s.do("metricsp", "-o", "yaml"), "podMetrics")
}
