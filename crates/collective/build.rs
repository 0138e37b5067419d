//! Compiles the C++ shim against the libtorch that `torch-sys` found.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");

    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        panic!("torch-sys did not say where libtorch is: set LIBTORCH to its folder");
    };
    let include = lib.with_file_name("include");
    let header = include.join("torch/csrc/distributed/c10d/ProcessGroupGloo.hpp");
    assert!(
        header.is_file(),
        "{} is missing: LIBTORCH must name a libtorch with its headers beside {}",
        header.display(),
        lib.display()
    );
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        // The shim only forwards: optimising torch's headers would cost more than it gives.
        .opt_level(0)
        .debug(false)
        .define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .include("shim")
        .warnings(true);
    for folder in [include.join("torch/csrc/api/include"), include] {
        build.flag("-isystem").flag(folder);
    }
    build
        .files(["shim/store.cpp", "shim/gloo.cpp", "shim/device.cpp"])
        .compile("espalier_collective");

    println!("cargo::rustc-link-search=native={}", lib.display());
    for name in ["torch_cpu", "c10"] {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
