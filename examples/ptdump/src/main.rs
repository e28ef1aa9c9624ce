//! `ptdump`: what the page tables in an image of memory say.
//!
//! ```text
//! ptdump <image> [--arch ARCH] [--root ADDR] [--pid N] [list | translate ADDR… | stats | diff OTHER]
//! ```
//!
//! Images are raw memory or ELF cores; `--help` says the rest, and `--man` prints it as a manual
//! page. The work is done by `memory_image` and `table_dump`, and by the walkers of this
//! workspace; here are only the command line and what people see.

mod address;
mod cli;
mod commands;
mod html;
mod output;
mod picture;
mod progress;
mod svg;

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use cli::Cli;

/// Everything was as asked.
pub const FINE: u8 = 0;
/// An address does not translate; the images differ.
pub const NOT_SO: u8 = 1;
/// The image cannot be used, or not to its end. (2 is a wrong command line.)
pub const FAILED: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = if let Some(shell) = cli.completions {
        clap_complete::generate(shell, &mut Cli::command(), "ptdump", &mut io::stdout());
        Ok(FINE)
    } else if cli.man {
        manual().map(|()| FINE)
    } else {
        commands::run(&cli)
    };
    match result {
        Ok(code) => ExitCode::from(code),
        // Whoever reads our output has heard enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ptdump: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn manual() -> Result<()> {
    Ok(clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?)
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
