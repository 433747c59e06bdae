//! Compiles the .proto files in Rust, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/client.proto", "proto/management.proto", "proto/peer.proto"], ["proto"])?;
    let mut generator = prost_build::Config::new();
    // Requests carry passwords and plaintext; replies carry plaintext. None of them may reach a log by accident.
    generator.skip_debug(["."]);
    generator.compile_fds(files)?;
    Ok(())
}
