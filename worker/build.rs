//! Lets the binary and the tests find libtorch at run time: torch-sys links it but sets no rpath.

use std::{env, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") else {
        return;
    };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    // Nothing refers to a symbol of libtorch_cuda, so the linker would drop it and libtorch would
    // then report no GPU.
    if Path::new(&lib).join("libtorch_cuda.so").exists() {
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,-ltorch,--as-needed");
    }
}
