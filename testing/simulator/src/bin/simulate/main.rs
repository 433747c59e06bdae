//! `simulate`: runs seeds, replays one with its log, and says what broke. `cargo xtask simulate` builds and starts it.

#[cfg(hsm_sim)]
mod seeds;

#[cfg(hsm_sim)]
fn main() -> std::process::ExitCode {
    seeds::main()
}

#[cfg(not(hsm_sim))]
fn main() -> std::process::ExitCode {
    eprintln!("this build cannot replay: start it by `cargo xtask simulate`");
    std::process::ExitCode::FAILURE
}
