//! `ptdump`: what the page tables in an image of a machine's memory say.
//!
//! ```text
//! ptdump COMMAND IMAGE [ARGUMENTS] [OPTIONS]
//! ```
//!
//! `--help` says the rest, and `ptdump man` prints it as a manual page. The work is done by
//! `memory_image` and `table_dump`, and by the walkers of this workspace; here are only the command
//! line and what people see.

// They panic if nobody listens: `Answers`, `stdout()` and `tell` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod address;
mod cli;
mod commands;
mod filter;
mod html;
mod json;
mod manual;
mod options;
mod output;
mod picture;
mod progress;
mod regions;
mod session;
mod svg;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

/// Everything was answered.
pub const FINE: u8 = 0;
/// Something is not mapped; the images differ; something was found that should not be there.
pub const NOT_SO: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The image cannot answer.
pub const FAILED: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match commands::run(&cli) {
        Ok(code) => ExitCode::from(code),
        // The reader of our output has heard enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<Usage>() => {
            output::tell(output::printable(&format!("ptdump: {error:#}")));
            ExitCode::from(USAGE)
        }
        Err(error) => {
            output::tell(output::printable(&format!("ptdump: {error:#}")));
            let option = error
                .downcast_ref::<table_dump::RootError>()
                .is_some_and(|it| matches!(it, table_dump::RootError::Option { .. }));
            ExitCode::from(if option { USAGE } else { FAILED })
        }
    }
}

/// What is wrong with the command line, beyond what its grammar says.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Says what is wrong with the command line; with a tip if the image stands where the command
/// should.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::from(FINE);
    }
    if error.kind() == ErrorKind::InvalidSubcommand {
        if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) {
            let commands = Cli::command();
            let mut words = std::env::args().skip_while(|it| it != word).skip(1);
            let command = words.find(|it| commands.find_subcommand(it).is_some());
            if Path::new(word).exists() || command.is_some() {
                let command = command.unwrap_or_else(|| "list".to_owned());
                output::tell(format_args!(
                    "  tip: the command comes first: ptdump {command} {word}"
                ));
            }
        }
    }
    ExitCode::from(USAGE)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        match (cause.downcast_ref::<io::Error>(), cause.downcast_ref::<serde_json::Error>()) {
            (Some(error), _) => error.kind() == io::ErrorKind::BrokenPipe,
            (_, Some(error)) => error.io_error_kind() == Some(io::ErrorKind::BrokenPipe),
            _ => false,
        }
    })
}

/// Runs a command that asks no image.
pub fn without_image(command: &Command) -> Option<anyhow::Result<u8>> {
    let mut out = io::stdout().lock();
    Some(
        match command {
            Command::Schema => {
                io::Write::write_all(&mut out, json::SCHEMA_TEXT.as_bytes()).map_err(Into::into)
            }
            Command::Man(manual) => manual::print(manual, &mut out),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut Cli::command(), "ptdump", &mut script);
                io::Write::write_all(&mut out, &script).map_err(Into::into)
            }
            _ => return None,
        }
        .map(|()| FINE),
    )
}
