//! What of the toolbox this machine has already, where it is told to take that.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::table::{COMPILERS, Tool};

/// The folder with the unpacked packages of a tool, if an environment variable names one.
pub fn folder(tool: &Tool) -> Option<PathBuf> {
    variable(tool).and_then(env::var_os).map(PathBuf::from)
}

/// The variable, `XTASK_` and the tool’s name, of a tool that is not run: programs stand in PATH.
pub fn variable(tool: &Tool) -> Option<String> {
    let name = || format!("XTASK_{}", tool.name.to_uppercase().replace('-', "_"));
    tool.programs.is_empty().then(name)
}

/// Fails if a program of one of the tools does not stand in PATH; names all that do not. What the
/// compilers need is looked for where they are used: a machine’s own have other names.
pub fn check(tools: &[&Tool]) -> Result<()> {
    let tools = tools.iter().filter(|tool| tool.name != COMPILERS.name);
    let programs = tools.flat_map(|tool| tool.programs.iter().map(move |it| (it.name, tool)));
    let missing = programs.filter(|(name, _)| program(name).is_err());
    let mut missing: Vec<_> =
        missing.map(|(name, tool)| format!("{name}{}", source(tool))).collect();
    missing.sort_unstable();
    missing.dedup();
    ensure!(missing.is_empty(), "--system-tools: not in PATH: {}", missing.join(", "));
    Ok(())
}

/// Where the tool's programs come from; nothing if that is no Debian package.
fn source(tool: &Tool) -> String {
    if !tool.wheels.is_empty() {
        return String::new();
    }
    format!(" (Debian: {})", tool.packages.join(", "))
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
    use super::super::table::{MAKE, Program, SYSTEM_PPC64EL};
    use super::*;

    #[test]
    fn a_program_is_looked_for_in_path() {
        assert!(program("sh").is_ok_and(|file| file.is_absolute()));
        let error = program("no-such-program").expect_err("there is none");
        assert!(error.to_string().contains("no no-such-program stands in PATH"), "{error}");
    }

    #[test]
    fn a_tool_has_a_variable() {
        assert_eq!(variable(&SYSTEM_PPC64EL).as_deref(), Some("XTASK_SYSTEM_PPC64EL"));
        assert_eq!(variable(&MAKE), None, "a program");
    }

    #[test]
    fn all_programs_that_are_not_there_are_named() {
        const NOWHERE: Tool = Tool {
            name: "nowhere",
            programs: &[
                Program { name: "no-such-b", ..MAKE.programs[0] },
                Program { name: "no-such-a", ..MAKE.programs[0] },
            ],
            ..MAKE
        };
        let error = check(&[&NOWHERE, &COMPILERS, &SYSTEM_PPC64EL]).expect_err("two are missing");
        assert_eq!(
            error.to_string(),
            "--system-tools: not in PATH: no-such-a (Debian: make), no-such-b (Debian: make)"
        );
    }
}
