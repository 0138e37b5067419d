//! Compiles the simulated host into the program.

fn main() {
    println!("cargo::rerun-if-changed=src/host.c");
    // As an object and not as a library: a linker takes nothing out of a library that libc has too.
    let objects = cc::Build::new()
        .file("src/host.c")
        .opt_level(2)
        .warnings(true)
        .compile_intermediates();
    for object in objects {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
    // Built together with the trainer the program has libtorch to find, though it does not use it.
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{libtorch}/lib");
    }
}
