//! Linker arguments of the C library.

fn main() {
    // The library stays mapped after dlclose: the cryptography inside registers per-thread clean-up with the C library,
    // which must still find its code when a thread of the application ends later.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // The function lists name our own C_ functions, also in an application that has others of the same name.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libkagimori_pkcs11.so");
    // Nothing runs at exit or unload: see the file.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-T,{}/no-destructors.ld", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=no-destructors.ld");
}
