//! Compiles the protos without protoc, and writes the descriptor set that reflection serves.

use std::path::PathBuf;

use prost::Message as _;

const PROTOS: [&str; 4] = [
    "espalier/v1/jobs.proto",
    "espalier/v1/workers.proto",
    "espalier/v1/registry.proto",
    "espalier/v1/tokens.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("espalier_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .bytes(".espalier.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
