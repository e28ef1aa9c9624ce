//! Manual pages: one of the program, one of each command.

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man;

use crate::Usage;
use crate::cli::{Cli, Manual};

/// Prints the manual page that is asked for, or writes all of them into a folder.
pub fn print(manual: &Manual, out: &mut dyn Write) -> Result<()> {
    let mut program = Cli::command();
    program.build();
    if let Some(folder) = &manual.all {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let pages = program.get_subcommands().cloned().chain([program.clone()]);
        for page in pages.collect::<Vec<_>>() {
            let path = folder.join(format!("{}.1", name_of(&page)));
            let mut file = File::create(&path).with_context(|| path.display().to_string())?;
            page_of(&page).render(&mut file)?;
        }
        return Ok(());
    }
    match &manual.command {
        None => Ok(page_of(&program).render(out)?),
        Some(name) => {
            let command = program.find_subcommand(name).ok_or_else(|| {
                Usage(format!("there is no command {name}: ptdump --help lists them"))
            })?;
            Ok(page_of(command).render(out)?)
        }
    }
}

/// The name of a command's page: `ptdump-list`.
fn name_of(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).replace(' ', "-")
}

fn page_of(command: &clap::Command) -> Man {
    let name = name_of(command);
    Man::new(command.clone().display_name(&name)).title(name)
}
