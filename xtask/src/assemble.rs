//! Assembling programs that run on bare machines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use duct::cmd;
use object::{Object, ObjectSection};

use crate::command;
use crate::toolbox::table::COMPILERS;
use crate::xtask::Xtask;

/// Writes the code of `source`, a file of the workspace, as bare bytes into the file `code`.
/// `target` are the compiler’s options that name the processor.
pub fn assemble(xtask: &Xtask, source: &str, target: &[&str], code: &str) -> Result<()> {
    let object = format!("{code}.o");
    let clang = xtask.toolbox.program(&COMPILERS, "clang")?;
    let source = xtask.root().join(source).display().to_string();
    let arguments = [target, &["-c", &source, "-o", &object]].concat();
    command::quiet("assembling", &cmd(clang, arguments))?;
    let bytes = fs::read(&object).context("the assembler’s object")?;
    let file = object::File::parse(&*bytes)?;
    let text = file.section_by_name(".text").context("the object has no code")?;
    fs::write(Path::new(code), text.data()?).with_context(|| code.to_owned())
}
