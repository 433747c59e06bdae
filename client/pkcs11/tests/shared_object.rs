//! The built `libkagimori_pkcs11.so` as an application's loader sees it: what it exports, what it leaves behind.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that cargo built beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let folder = test.parent().expect("it lies in a folder");
    let newest = [folder.join("libkagimori_pkcs11.so"), folder.join("../libkagimori_pkcs11.so")]
        .into_iter()
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max_by_key(|(modified, _)| *modified);
    newest.expect("cargo builds the C library before its tests").1
}

fn output(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("{program} (Debian: binutils, gcc) is needed: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("tools print text")
}

#[test]
fn only_the_functions_of_pkcs11_are_exported() {
    let symbols = output("nm", &["-D", "--defined-only", "--format=just-symbols"], &library());
    let (ours, others): (Vec<&str>, Vec<&str>) = symbols.lines().partition(|name| name.starts_with("C_"));
    assert_eq!(others, [""; 0], "a symbol that another library of the application may have too");
    assert_eq!(ours.len(), 104, "PKCS#11 3.2 has 104 functions: {ours:?}");
}

#[test]
fn nothing_runs_when_the_application_exits_or_unloads_the_library() {
    let dynamic = output("readelf", &["-dW"], &library());
    assert!(!dynamic.contains("FINI_ARRAY"), "there is a global destructor:\n{dynamic}");
    assert!(dynamic.contains("NODELETE"), "code of per-thread clean-up would vanish at dlclose:\n{dynamic}");
    assert!(dynamic.contains("SYMBOLIC"), "another library's C_ functions could stand in our tables:\n{dynamic}");
    let imported = output("nm", &["-D", "--undefined-only", "--format=just-symbols"], &library());
    let registers = |name: &&str| ["atexit", "__cxa_atexit", "on_exit"].contains(&name.split('@').next().unwrap_or(""));
    assert_eq!(imported.lines().find(registers), None, "a function is registered to run at exit");
}

#[test]
fn no_other_cryptographic_library_is_pulled_into_the_application() {
    let dynamic = output("readelf", &["-dW"], &library());
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        let allowed = ["libc.so", "libgcc_s.so", "ld-linux", "libm.so", "libpthread.so", "libdl.so"];
        assert!(allowed.iter().any(|name| line.contains(name)), "{line}");
    }
}

/// 200 rounds of load, initialise, use, finalise, unload, and every way of leaving, with an HSM that is not there.
#[test]
fn it_is_loaded_and_unloaded_again_and_again_and_left_in_every_way() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let program = folder.path().join("load");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/load.c");
    output("gcc", &["-w", "-O1", "-ldl", "-lpthread", "-o", program.to_str().expect("text")], &source);
    let configuration = folder.path().join("client.toml");
    let text = "[[cluster]]\nlabel = \"absent\"\nunix-socket = \"absent.sock\"\n[log]\nlevel = \"off\"\n";
    std::fs::write(&configuration, text).expect("the folder takes files");
    let run = Command::new(&program).arg(library()).env("KAGIMORI_CONFIG", &configuration).output();
    let run = run.expect("the program starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
