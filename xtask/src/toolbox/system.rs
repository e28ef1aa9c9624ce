//! What of the toolbox this machine has already, where it is told to take that.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::table::Tool;

/// The folder with the unpacked packages of a tool, if an environment variable names one.
pub fn folder(tool: &Tool) -> Option<PathBuf> {
    env::var_os(variable(tool)).map(PathBuf::from)
}

/// The variable: `XTASK_` and the tool’s name.
pub fn variable(tool: &Tool) -> String {
    format!("XTASK_{}", tool.name.to_uppercase().replace('-', "_"))
}

/// A program in PATH, which may have `-static` after its name.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = [name.to_owned(), format!("{name}-static")].iter().find_map(|name| {
        env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    });
    found.with_context(|| format!("--system-tools: no {name} stands in PATH"))
}

#[cfg(test)]
mod tests {
    use super::super::table::SYSTEM_PPC64EL;
    use super::*;

    #[test]
    fn a_program_is_looked_for_in_path() {
        assert!(program("sh").is_ok_and(|file| file.is_absolute()));
        let error = program("no-such-program").expect_err("there is none");
        assert!(error.to_string().contains("no no-such-program stands in PATH"), "{error}");
    }

    #[test]
    fn a_tool_has_a_variable() {
        assert_eq!(variable(&SYSTEM_PPC64EL), "XTASK_SYSTEM_PPC64EL");
    }
}
