//! Server reflection, v1 and v1alpha, straight from the encoded descriptors.
//!
//! Nothing is decoded until somebody asks, and nothing decoded is kept: the set is read-only data of the binary, a
//! question walks it (a hundred kilobytes), an answer copies the files asked for. So reflection costs no memory while
//! nobody uses it, which is always but when a person holds a grpcurl.
//!
//! As Go's servers do, an answer carries the file and all files that it imports, each once per stream.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use tonic::{Code, Request, Response, Status, Streaming};
use windlass_core::{Class, Error, Result};

/// Descriptors of everything in `proto/` and of what it imports, whatever the features.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Answers questions about descriptors.
#[derive(Clone)]
pub struct Reflection(Arc<Inner>);

struct Inner {
    sets: Vec<&'static [u8]>,
    services: Vec<String>,
}

impl Reflection {
    /// `services` are the full names that a listing shows; `more` are descriptor sets of services from elsewhere
    /// (health, reflection itself), beside [`FILE_DESCRIPTOR_SET`].
    pub fn new(services: impl IntoIterator<Item = String>, more: &[&'static [u8]]) -> Self {
        let mut sets = vec![FILE_DESCRIPTOR_SET];
        sets.extend_from_slice(more);
        let mut services: Vec<String> = services.into_iter().collect();
        services.sort();
        services.dedup();
        Self(Arc::new(Inner { sets, services }))
    }

    /// Adds both versions to what is served.
    pub fn add(&self, routes: &mut tonic::service::RoutesBuilder) {
        routes.add_service(v1::server(self.clone()));
        routes.add_service(v1alpha::server(self.clone()));
    }

    /// All files in encoded form.
    fn files(&self) -> impl Iterator<Item = &'static [u8]> + '_ {
        self.0.sets.iter().flat_map(|set| Files(set))
    }

    /// The first file that `accept` takes, with its encoded form.
    fn find(
        &self,
        accept: impl Fn(&FileDescriptorProto) -> bool,
    ) -> Option<(FileDescriptorProto, &'static [u8])> {
        self.files().find_map(|raw| {
            let file = FileDescriptorProto::decode(raw).ok()?;
            accept(&file).then_some((file, raw))
        })
    }

    /// The found file and its imports, all levels down, without what `sent` has.
    fn closure(
        &self,
        found: Option<(FileDescriptorProto, &'static [u8])>,
        what: &str,
        sent: &mut HashSet<String>,
    ) -> Result<Vec<Vec<u8>>> {
        let (file, raw) = found.ok_or_else(|| Error::not_found(format!("{what} is not known here")))?;
        // The file itself is answered even when it has been sent before: it is what was asked for.
        sent.insert(file.name().to_owned());
        let mut answer = vec![raw.to_vec()];
        let mut open = file.dependency;
        while let Some(name) = open.pop() {
            if !sent.insert(name.clone()) {
                continue;
            }
            if let Some((file, raw)) = self.find(|f| f.name() == name) {
                answer.push(raw.to_vec());
                open.extend(file.dependency);
            }
        }
        Ok(answer)
    }

    fn by_name(&self, name: &str, sent: &mut HashSet<String>) -> Result<Vec<Vec<u8>>> {
        self.closure(self.find(|f| f.name() == name), &format!("file {name:?}"), sent)
    }

    fn by_symbol(&self, symbol: &str, sent: &mut HashSet<String>) -> Result<Vec<Vec<u8>>> {
        let symbol = symbol.strip_prefix('.').unwrap_or(symbol);
        self.closure(self.find(|f| defines(f, symbol)), &format!("symbol {symbol:?}"), sent)
    }

    fn by_extension(&self, extended: &str, number: i32, sent: &mut HashSet<String>) -> Result<Vec<Vec<u8>>> {
        let found = self.find(|f| extensions(f).any(|x| extends(x, extended) && x.number() == number));
        self.closure(found, &format!("extension {number} of {extended:?}"), sent)
    }

    fn extension_numbers(&self, extended: &str) -> Result<Vec<i32>> {
        let files = self.files().filter_map(|raw| FileDescriptorProto::decode(raw).ok());
        let mut numbers: Vec<i32> = files
            .flat_map(|f| {
                extensions(&f).filter(|x| extends(x, extended)).map(|x| x.number()).collect::<Vec<_>>()
            })
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() && self.find(|f| defines(f, extended)).is_none() {
            return Err(Error::not_found(format!("type {extended:?} is not known here")));
        }
        Ok(numbers)
    }
}

/// Walks an encoded `FileDescriptorSet`: every element is field 1, length-delimited.
struct Files(&'static [u8]);

impl Iterator for Files {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        let mut rest = self.0;
        let (field, _) = prost::encoding::decode_key(&mut rest).ok()?;
        let length = usize::try_from(prost::encoding::decode_varint(&mut rest).ok()?).ok()?;
        if field != 1 {
            return None;
        }
        let (file, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(file)
    }
}

fn extends(extension: &FieldDescriptorProto, message: &str) -> bool {
    extension.extendee().trim_start_matches('.') == message.trim_start_matches('.')
}

fn extensions(file: &FileDescriptorProto) -> impl Iterator<Item = &FieldDescriptorProto> {
    fn nested<'a>(message: &'a DescriptorProto, out: &mut Vec<&'a FieldDescriptorProto>) {
        out.extend(&message.extension);
        message.nested_type.iter().for_each(|m| nested(m, out));
    }
    let mut found: Vec<_> = file.extension.iter().collect();
    file.message_type.iter().for_each(|m| nested(m, &mut found));
    found.into_iter()
}

/// Whether `file` defines `symbol`: a service, method, message, field, oneof, enum, enum value or extension.
fn defines(file: &FileDescriptorProto, symbol: &str) -> bool {
    let package = file.package();
    let local = match symbol.strip_prefix(package) {
        Some(rest) if !package.is_empty() => match rest.strip_prefix('.') {
            Some(rest) => rest,
            None => return false,
        },
        _ if package.is_empty() => symbol,
        _ => return false,
    };
    let named = |name: &str| name == local;
    file.message_type.iter().any(|m| in_message(m, local))
        || file.enum_type.iter().any(|e| in_enum(e, local))
        || file.extension.iter().any(|x| named(x.name()))
        || file.service.iter().any(|s| {
            named(s.name())
                || local
                    .strip_prefix(s.name())
                    .and_then(|rest| rest.strip_prefix('.'))
                    .is_some_and(|method| s.method.iter().any(|m| m.name() == method))
        })
}

/// An enum's values are siblings of the enum.
fn in_enum(e: &EnumDescriptorProto, local: &str) -> bool {
    e.name() == local || e.value.iter().any(|v| v.name() == local)
}

fn in_message(message: &DescriptorProto, local: &str) -> bool {
    let Some(rest) = local.strip_prefix(message.name()) else { return false };
    let Some(inner) = rest.strip_prefix('.') else { return rest.is_empty() };
    message.field.iter().any(|f| f.name() == inner)
        || message.oneof_decl.iter().any(|o| o.name() == inner)
        || message.extension.iter().any(|x| x.name() == inner)
        || message.nested_type.iter().any(|m| in_message(m, inner))
        || message.enum_type.iter().any(|e| in_enum(e, inner))
}

/// The two versions of the protocol have the same messages under two names.
macro_rules! version {
    ($version:ident) => {
        mod $version {
            use tonic_reflection::pb::$version as pb;

            use self::pb::server_reflection_request::MessageRequest as Question;
            use self::pb::server_reflection_response::MessageResponse as Answer;
            use self::pb::server_reflection_server::{ServerReflection, ServerReflectionServer};
            use super::*;

            pub fn server(reflection: Reflection) -> ServerReflectionServer<Reflection> {
                ServerReflectionServer::new(reflection)
            }

            fn answer(
                reflection: &Reflection,
                question: Option<Question>,
                sent: &mut HashSet<String>,
            ) -> Result<Answer> {
                let files = |files| {
                    Answer::FileDescriptorResponse(pb::FileDescriptorResponse {
                        file_descriptor_proto: files,
                    })
                };
                Ok(match question {
                    Some(Question::FileByFilename(name)) => files(reflection.by_name(&name, sent)?),
                    Some(Question::FileContainingSymbol(symbol)) => {
                        files(reflection.by_symbol(&symbol, sent)?)
                    }
                    Some(Question::FileContainingExtension(x)) => {
                        files(reflection.by_extension(&x.containing_type, x.extension_number, sent)?)
                    }
                    Some(Question::AllExtensionNumbersOfType(name)) => {
                        let extension_number = reflection.extension_numbers(&name)?;
                        Answer::AllExtensionNumbersResponse(pb::ExtensionNumberResponse {
                            base_type_name: name,
                            extension_number,
                        })
                    }
                    Some(Question::ListServices(_)) => {
                        let names = reflection.0.services.iter();
                        let service = names.map(|name| pb::ServiceResponse { name: name.clone() }).collect();
                        Answer::ListServicesResponse(pb::ListServiceResponse { service })
                    }
                    None => return Err(Error::new(Class::InvalidArgument, "the request asks nothing")),
                })
            }

            #[tonic::async_trait]
            impl ServerReflection for Reflection {
                type ServerReflectionInfoStream =
                    Pin<Box<dyn Stream<Item = Result<pb::ServerReflectionResponse, Status>> + Send>>;

                async fn server_reflection_info(
                    &self,
                    request: Request<Streaming<pb::ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    let state = (self.clone(), request.into_inner(), HashSet::new());
                    let answers = futures::stream::try_unfold(
                        state,
                        |(reflection, mut questions, mut sent)| async move {
                            let Some(request) = questions.message().await? else { return Ok(None) };
                            let answer = answer(&reflection, request.message_request.clone(), &mut sent)
                                .unwrap_or_else(|e| {
                                    let code = Code::from_i32(crate::status::code(e.class())) as i32;
                                    Answer::ErrorResponse(pb::ErrorResponse {
                                        error_code: code,
                                        error_message: crate::status::text(&e),
                                    })
                                });
                            let response = pb::ServerReflectionResponse {
                                valid_host: request.host.clone(),
                                original_request: Some(request),
                                message_response: Some(answer),
                            };
                            Ok(Some((response, (reflection, questions, sent))))
                        },
                    );
                    Ok(Response::new(Box::pin(answers)))
                }
            }
        }
    };
}

version!(v1);
version!(v1alpha);

#[cfg(test)]
mod tests {
    use super::*;

    fn names(answer: Result<Vec<Vec<u8>>>) -> Vec<String> {
        answer
            .unwrap()
            .iter()
            .map(|raw| FileDescriptorProto::decode(&raw[..]).unwrap().name().to_owned())
            .collect()
    }

    #[test]
    fn symbols_of_every_sort_are_found() {
        let reflection = Reflection::new([], &[]);
        for (symbol, file) in [
            ("containerd.services.tasks.v1.Tasks", "services/tasks/v1/tasks.proto"),
            ("containerd.services.tasks.v1.Tasks.Kill", "services/tasks/v1/tasks.proto"),
            (".containerd.types.Mount", "types/mount.proto"),
            ("containerd.types.Mount.source", "types/mount.proto"),
            ("containerd.v1.types.RUNNING", "types/task/task.proto"),
            ("containerd.events.ContainerCreate.Runtime.name", "events/container.proto"),
            ("containerd.types.fieldpath", "types/fieldpath.proto"),
            ("containerd.services.images.v1.ImageCreate", "events/image.proto"),
            ("containerd.task.v3.Task", "runtime/task/v3/shim.proto"),
            ("google.protobuf.Any", "google/protobuf/any.proto"),
        ] {
            assert_eq!(names(reflection.by_symbol(symbol, &mut HashSet::new()))[0], file, "{symbol}");
        }
        for missing in ["", "containerd", "containerd.types", "containerd.types.Mount.nothing", "x.Y"] {
            let error = reflection.by_symbol(missing, &mut HashSet::new()).unwrap_err();
            assert!(error.is_not_found(), "{missing}");
        }
    }

    #[test]
    fn imports_come_along_once_per_stream() {
        let reflection = Reflection::new([], &[]);
        let sent = &mut HashSet::new();
        let first = names(reflection.by_name("events/task.proto", sent));
        assert!(
            first.contains(&"google/protobuf/timestamp.proto".into())
                && first.contains(&"types/mount.proto".into())
        );
        assert_eq!(
            names(reflection.by_name("events/container.proto", sent))
                .iter()
                .filter(|n| first.contains(n))
                .count(),
            0
        );
        assert!(reflection.by_name("/etc/passwd", sent).unwrap_err().is_not_found());
    }

    #[test]
    fn extensions_are_found() {
        let reflection = Reflection::new([], &[]);
        assert_eq!(reflection.extension_numbers("google.protobuf.FileOptions").unwrap(), [63300]);
        let files =
            names(reflection.by_extension("google.protobuf.MessageOptions", 64400, &mut HashSet::new()));
        assert_eq!(files[0], "types/fieldpath.proto");
        assert!(reflection.extension_numbers("containerd.types.Mount").unwrap().is_empty());
        assert!(reflection.extension_numbers("x.Y").unwrap_err().is_not_found());
    }

    #[test]
    fn the_set_is_whole() {
        let files: Vec<_> =
            Files(FILE_DESCRIPTOR_SET).map(|raw| FileDescriptorProto::decode(raw).unwrap()).collect();
        let known: HashSet<_> = files.iter().map(|f| f.name().to_owned()).collect();
        for file in &files {
            assert!(file.dependency.iter().all(|d| known.contains(d)), "{}", file.name());
        }
        let rpcs = |prefix: &str| -> usize {
            let of = files.iter().filter(|f| f.package().starts_with(prefix));
            of.flat_map(|f| &f.service).map(|s| s.method.len()).sum()
        };
        // 88 gRPC and the ttrpc Forward.
        assert_eq!(rpcs("containerd.services."), 89);
        assert_eq!(rpcs("containerd.task."), 34);
        assert_eq!(rpcs("containerd.runtime.sandbox."), 9);
        assert_eq!(rpcs("runtime.v1"), 41);
    }
}
