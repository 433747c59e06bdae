//! The program `kagimori-hsm`: parses the command line, starts the log, and turns what happened into an exit code.

use std::process::ExitCode;

use clap::Parser;
use hsm_server::command_line::{Command, CommandLine, ManageArguments, ServeArguments};
use hsm_server::exit::Fault;
use hsm_server::settings::Settings;
use hsm_server::{logging, manage, process};

fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Manage(arguments) => run_manage(&arguments),
    }
}

fn serve(arguments: &ServeArguments) -> ExitCode {
    let settings = match Settings::check(arguments).and_then(|settings| {
        logging::start(settings.log_format(), settings.log_filter())?;
        Ok(settings)
    }) {
        Ok(settings) => settings,
        Err(fault) => return say(&fault),
    };
    logging::abort_on_panic();
    match process::serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            tracing::error!(exit_code = fault.exit_code(), "{fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}

fn run_manage(arguments: &ManageArguments) -> ExitCode {
    match manage::run(arguments, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => say(&fault),
    }
}

fn say(fault: &Fault) -> ExitCode {
    eprintln!("kagimori-hsm: {fault}");
    ExitCode::from(fault.exit_code())
}
