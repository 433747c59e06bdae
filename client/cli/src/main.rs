//! `kagimori`: the command line for administrators and key owners.
//!
//! It speaks to the HSMs through `hsm-client` as an application does and can do nothing that an application could not.
//! Commands have the names of AWS's `cloudhsm-cli`. It must not keep a password longer than a call needs it, nor print
//! one. [`command_line`] holds the words, [`credentials`] who is logged in, [`answer`] and [`failure`] what is printed.

mod answer;
mod attributes;
mod cluster;
mod command_line;
mod credentials;
mod doctor;
mod failure;
mod filter;
mod generate;
mod key;
mod members;
mod unreached;
mod user;

use std::process::ExitCode;

use answer::Answer;
use clap::Parser as _;
use command_line::{Area, Arguments};
use failure::Failure;
use hsm_client::{Cluster, ClusterConfiguration, Configuration};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = arguments.common.output;
    let filter = tracing_subscriber::EnvFilter::try_from_env("KAGIMORI_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    if let Area::Doctor = arguments.area {
        return doctor::run(&arguments.common);
    }
    match run(&arguments) {
        Ok(answer) => answer.print(output),
        Err(failure) => failure.print(output),
    }
}

fn run(arguments: &Arguments) -> Result<Answer, Failure> {
    let configuration = load(arguments.common.config.as_deref())?;
    let cluster = Cluster::new(choose(&configuration, arguments.common.cluster.as_deref())?.clone());
    let session = credentials::Session::new(&cluster, &arguments.common);
    match &arguments.area {
        Area::Cluster(command) => cluster::run(&session, command),
        Area::Login(who) => user::log_in(&cluster, who),
        Area::User(command) => user::run(&session, command),
        Area::Key(command) => key::run(&session, command),
        Area::Doctor => Err(Failure::misuse("doctor is run by itself", "start it without other commands")),
    }
}

/// The configuration, from `--config` or the search path.
fn load(file: Option<&std::path::Path>) -> Result<Configuration, Failure> {
    let loaded = file.map_or_else(Configuration::load, Configuration::load_from);
    loaded.map_err(Failure::from)
}

/// The cluster with a label, or the only one.
fn choose<'a>(configuration: &'a Configuration, label: Option<&str>) -> Result<&'a ClusterConfiguration, Failure> {
    let labels = || configuration.clusters.iter().map(|cluster| cluster.label.as_str()).collect::<Vec<_>>().join(", ");
    match (label, configuration.clusters.as_slice()) {
        (Some(label), clusters) => clusters.iter().find(|cluster| cluster.label == label).ok_or_else(|| {
            Failure::misuse(format!("client.toml has no cluster {label:?}"), format!("choose one of: {}", labels()))
        }),
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::misuse(
            "client.toml has several clusters",
            format!("say which one by --cluster-id: {}", labels()),
        )),
    }
}
