//! Compiles `proto/` without protoc: rust-protobuf and ttrpc for what shims speak, prost and tonic for the rest.

#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "ttrpc")]
mod ttrpc;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
    #[cfg(feature = "ttrpc")]
    ttrpc::generate()?;
    #[cfg(feature = "grpc")]
    grpc::generate()?;
    Ok(())
}
