//! The binary `headcount`: a node (`serve`), a whole cluster on this machine (`dev`, `demo`), and
//! the command line of those who operate one.
//!
//! Exit codes: 0 when what was asked for was done, 1 when it failed, 64 when it was asked for
//! wrongly: a flag, or a configuration.

mod admin;
mod channels;
mod cli;
mod cluster;
mod config;
mod demo;
mod dev;
mod events;
mod failure;
mod files;
mod kept;
mod load;
mod output;
mod rest;
mod serve;
mod sse;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::Failure;
use output::Output;

/// The system's allocator takes a tenth of an attach, and gives little back of what many threads held.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for_help = !error.use_stderr();
            // Nobody may be reading any more; there is nothing better to do about it.
            if !asked_for_help && std::env::args_os().any(|argument| argument == "--json") {
                let told = error.to_string();
                Failure::usage(told.trim_end()).report(Output::new(true));
            } else {
                drop(error.print());
            }
            return ExitCode::from(if asked_for_help { 0 } else { failure::USAGE });
        }
    };
    let output = Output::new(cli.json);
    files::raise();
    match run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(output);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let Cli {
        command, connect, ..
    } = cli;
    match command {
        Command::Completions { shell } => cli::completions(shell, output),
        Command::Config { command } => config::run(&command, output),
        other => runtime()?.block_on(run_async(other, connect, output)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.map_err(|error| Failure::failed(anyhow::anyhow!("no threads to run on: {error}")))
}

async fn run_async(command: Command, connect: cli::Connect, output: Output) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => Box::pin(serve::serve(arguments, output)).await,
        Command::Join(arguments) => Box::pin(serve::join(arguments, output)).await,
        Command::Dev(arguments) => dev::run(&arguments, output).await,
        Command::Demo(arguments) => demo::run(&arguments, output).await,
        Command::Init(operate) => cluster::init(&operate, output).await,
        Command::Cluster { command, operate } => cluster::run(command, &operate, output).await,
        Command::Channels { command } => channels::run(command, &connect, output).await,
        Command::Events { command } => events::run(command, &connect, output).await,
        Command::Load(arguments) => load::run(*arguments, &connect, output).await,
        // Dispatched before there was a runtime.
        Command::Completions { .. } | Command::Config { .. } => Ok(()),
    }
}
