//! Compiles the official `onnx.proto` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["onnx.proto"], ["proto"])?;
    prost_build::Config::new()
        // Tensors are copied once, from the checkpoint's bytes.
        .bytes([".onnx.TensorProto.raw_data"])
        // They are Markdown only by half, and nobody reads them here.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
