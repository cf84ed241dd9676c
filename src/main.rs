//! The `sluice` command: a table of contents. Each command lives in its own file under `cli`.

use clap::Parser;
use sluice::cli::{Cli, Command};
use std::process::ExitCode;

/// Two allocators' worth of arenas would not fit the memory a process is promised to stay within.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _chosen = fail::FailScenario::setup();
    let cli = Cli::parse();
    let context = cli.context();
    let result = match cli.command {
        Command::Dev(args) => context.run(args.run(&context)),
        Command::Migrate(args) => context.run(args.run(&context)),
        Command::Ingest => sluice::cli::ingest::run(&context),
        Command::Worker => context.run(sluice::cli::worker::run(&context)),
        Command::Send(args) => context.run(args.run(&context)),
        Command::Status(args) => context.run(args.run(&context)),
        Command::Replay(args) => context.run(args.run(&context)),
        Command::Route(args) => args.run(&context),
        Command::Reverify(args) => context.run(args.run(&context)),
        Command::Erase(args) => context.run(args.run(&context)),
        Command::Prune(args) => context.run(args.run(&context)),
        Command::Projection(args) => context.run(args.run(&context)),
        Command::Bench(args) => context.run(args.run(&context)),
        Command::Doctor(args) => context.run(args.run(&context)),
        Command::Mindtickle(args) => context.run(args.run(&context)),
        Command::Config(args) => args.run(&context),
        Command::Completions(args) => args.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
