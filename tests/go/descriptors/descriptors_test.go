// Package descriptors holds the daemon's API against upstream's: every service, method, message, field and enum value
// that containerd's Go packages and k8s.io/cri-api declare must be what the daemon's reflection serves, and nothing more.
//
// WINDLASS_ADDRESS is the daemon's socket.
package descriptors

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// What upstream had when this was written: guards against a walk that finds nothing.
const (
	wantGRPC  = 88
	wantTTRPC = 17 + 17 + 9 + 1
	wantCRI   = 41
)

// Services that are spoken over ttrpc only: described, not listed.
var ttrpcOnly = []protoreflect.FullName{
	"containerd.task.v2.Task",
	"containerd.task.v3.Task",
	"containerd.runtime.sandbox.v1.Sandbox",
	"containerd.services.events.ttrpc.v1.Events",
}

func TestDescriptors(t *testing.T) {
	daemon := dial(t)
	compare := &comparison{report: func(difference string) { t.Error(difference) }}
	ours := daemon.files()
	for _, theirs := range upstream(t) {
		file, err := ours.FindFileByPath(theirs.Path())
		if err != nil {
			t.Errorf("%s: not served: %v", theirs.Path(), err)
			continue
		}
		compare.file(theirs, file)
	}
	t.Logf("compared %d files, %d services, %d methods, %d messages, %d fields, %d enum values, %d differences",
		compare.files, compare.services, compare.methods, compare.messages, compare.fields, compare.values, compare.differences)
	if want := wantGRPC + wantTTRPC + wantCRI; compare.methods != want {
		t.Errorf("compared %d methods, want %d", compare.methods, want)
	}
}

// Each service and message is also found by its name, which is how grpcurl asks.
func TestDescriptorsBySymbol(t *testing.T) {
	daemon := dial(t)
	for _, file := range upstream(t) {
		for _, name := range symbols(file) {
			found := daemon.ask(&reflection.ServerReflectionRequest{
				MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: string(name)},
			})
			answered := found.GetFileDescriptorResponse()
			if answered == nil || len(answered.FileDescriptorProto) == 0 {
				t.Errorf("%s: %v", name, found.GetErrorResponse())
				continue
			}
			if got := decode(t, answered.FileDescriptorProto[0]).GetName(); got != file.Path() {
				t.Errorf("%s: served in %s, want %s", name, got, file.Path())
			}
		}
	}
}

func TestDescriptorsListed(t *testing.T) {
	daemon := dial(t)
	answer := daemon.ask(&reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_ListServices{},
	})
	var listed []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		listed = append(listed, service.Name)
	}
	for _, file := range upstream(t) {
		for i := range file.Services().Len() {
			name := file.Services().Get(i).FullName()
			if file.Package() == "runtime.v1" {
				continue // a plugin that configuration can turn off
			}
			if want := !slices.Contains(ttrpcOnly, name); want != slices.Contains(listed, string(name)) {
				t.Errorf("%s: listed %v, want %v", name, !want, want)
			}
		}
	}
	if !slices.Contains(listed, "grpc.health.v1.Health") {
		t.Errorf("grpc.health.v1.Health is not listed")
	}
}

// The comparison itself: whatever is changed in a file must be seen.
func TestComparisonSeesChanges(t *testing.T) {
	const path = "services/content/v1/content.proto"
	message := func(f *descriptorpb.FileDescriptorProto, name string) *descriptorpb.DescriptorProto {
		return f.MessageType[slices.IndexFunc(f.MessageType, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == name })]
	}
	changes := map[string]func(f *descriptorpb.FileDescriptorProto){
		"containerd.services.content.v1.Info.digest: number": func(f *descriptorpb.FileDescriptorProto) {
			message(f, "Info").Field[0].Number = proto.Int32(99)
		},
		"containerd.services.content.v1.Info.size: type": func(f *descriptorpb.FileDescriptorProto) {
			message(f, "Info").Field[1].Type = descriptorpb.FieldDescriptorProto_TYPE_UINT64.Enum()
		},
		"containerd.services.content.v1.ListContentRequest.filters: label": func(f *descriptorpb.FileDescriptorProto) {
			message(f, "ListContentRequest").Field[0].Label = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()
		},
		"containerd.services.content.v1.Info: field extra": func(f *descriptorpb.FileDescriptorProto) {
			extra := proto.Clone(message(f, "Info").Field[0]).(*descriptorpb.FieldDescriptorProto)
			extra.Name, extra.JsonName, extra.Number = proto.String("extra"), proto.String("extra"), proto.Int32(98)
			message(f, "Info").Field = append(message(f, "Info").Field, extra)
		},
		"containerd.services.content.v1.Content: method Abort": func(f *descriptorpb.FileDescriptorProto) {
			methods := f.Service[0].Method
			f.Service[0].Method = slices.DeleteFunc(methods, func(m *descriptorpb.MethodDescriptorProto) bool { return m.GetName() == "Abort" })
		},
		"containerd.services.content.v1.Content.Info: server streams": func(f *descriptorpb.FileDescriptorProto) {
			f.Service[0].Method[0].ServerStreaming = proto.Bool(true)
		},
		"containerd.services.content.v1.COMMIT: number": func(f *descriptorpb.FileDescriptorProto) {
			values := f.EnumType[0].Value
			values[len(values)-1].Number = proto.Int32(9)
		},
	}
	theirs, err := protoregistry.GlobalFiles.FindFileByPath(path)
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range changes {
		mutated := protodesc.ToFileDescriptorProto(theirs)
		change(mutated)
		ours, err := protodesc.NewFile(mutated, protoregistry.GlobalFiles)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		var seen []string
		(&comparison{report: func(difference string) { seen = append(seen, difference) }}).file(theirs, ours)
		if len(seen) == 0 || !strings.HasPrefix(seen[0], want) {
			t.Errorf("%s: not seen, but %q", want, seen)
		}
	}
}

// upstream answers the files that the imports of upstream_test.go have registered, without Google's own.
func upstream(t *testing.T) []protoreflect.FileDescriptor {
	t.Helper()
	var files []protoreflect.FileDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		pkg := string(file.Package())
		if !strings.HasPrefix(file.Path(), "google/protobuf/") && !strings.HasPrefix(pkg, "grpc.") && pkg != "ttrpc" {
			files = append(files, file)
		}
		return true
	})
	if len(files) < 40 {
		t.Fatalf("only %d upstream files are linked in", len(files))
	}
	slices.SortFunc(files, func(a, b protoreflect.FileDescriptor) int { return strings.Compare(a.Path(), b.Path()) })
	return files
}

func symbols(file protoreflect.FileDescriptor) []protoreflect.FullName {
	var names []protoreflect.FullName
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		names = append(names, service.FullName())
		for j := range service.Methods().Len() {
			names = append(names, service.Methods().Get(j).FullName())
		}
	}
	for i := range file.Messages().Len() {
		names = append(names, file.Messages().Get(i).FullName())
	}
	for i := range file.Enums().Len() {
		names = append(names, file.Enums().Get(i).FullName())
	}
	return names
}

type daemon struct {
	t      *testing.T
	stream reflection.ServerReflection_ServerReflectionInfoClient
}

func dial(t *testing.T) *daemon {
	t.Helper()
	address := os.Getenv("WINDLASS_ADDRESS")
	if address == "" {
		t.Fatal("WINDLASS_ADDRESS is not set: it names the socket of the daemon to compare with")
	}
	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(address, "unix://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	stream, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatalf("ask %s for reflection: %v", address, err)
	}
	return &daemon{t, stream}
}

func (d *daemon) ask(request *reflection.ServerReflectionRequest) *reflection.ServerReflectionResponse {
	d.t.Helper()
	if err := d.stream.Send(request); err != nil {
		d.t.Fatalf("ask: %v", err)
	}
	answer, err := d.stream.Recv()
	if err != nil {
		d.t.Fatalf("answer: %v", err)
	}
	return answer
}

func decode(t *testing.T, raw []byte) *descriptorpb.FileDescriptorProto {
	t.Helper()
	file := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(raw, file); err != nil {
		t.Fatalf("a served file does not parse: %v", err)
	}
	return file
}

// files asks for every upstream file by its name and links what comes back.
func (d *daemon) files() *protoregistry.Files {
	d.t.Helper()
	served := map[string]*descriptorpb.FileDescriptorProto{}
	for _, theirs := range upstream(d.t) {
		answer := d.ask(&reflection.ServerReflectionRequest{
			MessageRequest: &reflection.ServerReflectionRequest_FileByFilename{FileByFilename: theirs.Path()},
		})
		if failed := answer.GetErrorResponse(); failed != nil {
			d.t.Errorf("%s: %s", theirs.Path(), failed.ErrorMessage)
		}
		for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := decode(d.t, raw)
			served[file.GetName()] = file
		}
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, file := range served {
		set.File = append(set.File, file)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		d.t.Fatalf("the served files do not fit together: %v", err)
	}
	return files
}

type comparison struct {
	report      func(string)
	files       int
	services    int
	methods     int
	messages    int
	fields      int
	values      int
	differences int
}

func (c *comparison) same(where any, what string, theirs, ours any) {
	if t, o := fmt.Sprint(theirs), fmt.Sprint(ours); t != o {
		c.differences++
		c.report(fmt.Sprintf("%v: %s: upstream %s, ours %s", where, what, t, o))
	}
}

// pairs calls each with the elements of both lists that have the same name, and reports those without a partner.
func pairs[T protoreflect.Descriptor](c *comparison, where any, what string, theirs, ours interface {
	Len() int
	Get(int) T
}, each func(theirs, ours T)) {
	left := map[protoreflect.Name]T{}
	for i := range ours.Len() {
		left[ours.Get(i).Name()] = ours.Get(i)
	}
	for i := range theirs.Len() {
		t := theirs.Get(i)
		o, found := left[t.Name()]
		if !found {
			c.same(where, what+" "+string(t.Name()), "there", "missing")
			continue
		}
		delete(left, t.Name())
		each(t, o)
	}
	for name := range left {
		c.same(where, what+" "+string(name), "missing", "there")
	}
}

func (c *comparison) file(theirs, ours protoreflect.FileDescriptor) {
	c.files++
	where := theirs.Path()
	c.same(where, "package", theirs.Package(), ours.Package())
	c.same(where, "syntax", theirs.Syntax(), ours.Syntax())
	pairs(c, where, "service", theirs.Services(), ours.Services(), c.service)
	pairs(c, where, "message", theirs.Messages(), ours.Messages(), c.message)
	pairs(c, where, "enum", theirs.Enums(), ours.Enums(), c.enum)
	pairs[protoreflect.FieldDescriptor](c, where, "extension", theirs.Extensions(), ours.Extensions(), c.field)
}

func (c *comparison) service(theirs, ours protoreflect.ServiceDescriptor) {
	c.services++
	pairs(c, theirs.FullName(), "method", theirs.Methods(), ours.Methods(), func(t, o protoreflect.MethodDescriptor) {
		c.methods++
		where := t.FullName()
		c.same(where, "request", t.Input().FullName(), o.Input().FullName())
		c.same(where, "response", t.Output().FullName(), o.Output().FullName())
		c.same(where, "client streams", t.IsStreamingClient(), o.IsStreamingClient())
		c.same(where, "server streams", t.IsStreamingServer(), o.IsStreamingServer())
		c.options(where, t.Options(), o.Options())
	})
}

func (c *comparison) message(theirs, ours protoreflect.MessageDescriptor) {
	c.messages++
	where := theirs.FullName()
	c.same(where, "map entry", theirs.IsMapEntry(), ours.IsMapEntry())
	c.same(where, "reserved numbers", theirs.ReservedRanges(), ours.ReservedRanges())
	c.same(where, "reserved names", theirs.ReservedNames(), ours.ReservedNames())
	c.options(where, theirs.Options(), ours.Options())
	pairs(c, where, "field", theirs.Fields(), ours.Fields(), c.field)
	pairs(c, where, "message", theirs.Messages(), ours.Messages(), c.message)
	pairs(c, where, "enum", theirs.Enums(), ours.Enums(), c.enum)
	pairs[protoreflect.FieldDescriptor](c, where, "extension", theirs.Extensions(), ours.Extensions(), c.field)
}

func (c *comparison) field(theirs, ours protoreflect.FieldDescriptor) {
	c.fields++
	where := theirs.FullName()
	c.same(where, "number", theirs.Number(), ours.Number())
	c.same(where, "type", kind(theirs), kind(ours))
	c.same(where, "label", theirs.Cardinality(), ours.Cardinality())
	c.same(where, "presence", theirs.HasPresence(), ours.HasPresence())
	c.same(where, "optional", theirs.HasOptionalKeyword(), ours.HasOptionalKeyword())
	c.same(where, "packed", theirs.IsPacked(), ours.IsPacked())
	c.same(where, "map", theirs.IsMap(), ours.IsMap())
	c.same(where, "JSON name", theirs.JSONName(), ours.JSONName())
	c.same(where, "oneof", oneof(theirs), oneof(ours))
	c.same(where, "extends", theirs.ContainingMessage().FullName(), ours.ContainingMessage().FullName())
	c.options(where, theirs.Options(), ours.Options())
}

func (c *comparison) enum(theirs, ours protoreflect.EnumDescriptor) {
	c.options(theirs.FullName(), theirs.Options(), ours.Options())
	pairs(c, theirs.FullName(), "value", theirs.Values(), ours.Values(), func(t, o protoreflect.EnumValueDescriptor) {
		c.values++
		c.same(t.FullName(), "number", t.Number(), o.Number())
		c.options(t.FullName(), t.Options(), o.Options())
	})
}

// options compares what changes how a value is treated: deprecated, debug_redact, allow_alias, upstream's own marks.
func (c *comparison) options(where any, theirs, ours proto.Message) {
	encoding := proto.MarshalOptions{Deterministic: true}
	t, _ := encoding.Marshal(theirs)
	o, _ := encoding.Marshal(ours)
	c.same(where, "options", t, o)
}

func kind(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return fmt.Sprintf("%s %s", field.Kind(), field.Message().FullName())
	case protoreflect.EnumKind:
		return fmt.Sprintf("%s %s", field.Kind(), field.Enum().FullName())
	default:
		return field.Kind().String()
	}
}

func oneof(field protoreflect.FieldDescriptor) protoreflect.Name {
	if of := field.ContainingOneof(); of != nil {
		return of.Name()
	}
	return ""
}
