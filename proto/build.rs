//! Compiles the .proto files in pure Rust, so that no protoc is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/holdfast.proto");
    let files = protox::compile(["proto/holdfast.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
