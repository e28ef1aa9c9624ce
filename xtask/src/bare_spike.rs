//! A bare machine of Spike's: no firmware but ours, and an image of memory on which it works.
//!
//! Spike runs programs in ELF. When the program asks for the end, it prints the memory between two
//! symbols: the "signature" that conformance tests compare.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use duct::cmd;

use crate::command;
use crate::toolbox::table::COMPILERS;
use crate::xtask::Xtask;

/// How long the machine may take: a hundred times as long as it does.
const PATIENCE: Duration = Duration::from_secs(300);

/// What machine it is.
pub struct Bare<'m> {
    /// Spike’s program, and what makes the machine.
    pub spike: &'m Path,
    pub machine: &'m str,
    /// The file with the firmware, and where it begins.
    pub firmware: &'m str,
    pub reset: u64,
    /// A word that ends the machine when 1 is stored in it.
    pub end: u64,
    /// The file with the image, and where it stands.
    pub image: &'m str,
    pub address: u64,
}

impl Bare<'_> {
    /// Runs the machine until it is done, and saves the image in the file `seen`. Other files are
    /// made beside that.
    pub fn run(&self, xtask: &Xtask, seen: &str) -> Result<()> {
        let program = format!("{seen}.elf");
        self.link(xtask, &program)?;
        let signature = format!("+signature={seen}.hex");
        let arguments = ["--pdeathsig", "KILL", "--"].map(str::to_owned).into_iter();
        let arguments = arguments
            .chain([self.spike.display().to_string()])
            .chain(self.machine.split(' ').map(str::to_owned))
            .chain([signature, "+signature-granularity=8".to_owned(), program]);
        let spike = cmd("setpriv", arguments)
            .stdin_null()
            .stdout_capture()
            .stderr_to_stdout()
            .unchecked()
            .start()
            .context("starting Spike")?;
        let Some(ended) = spike.wait_timeout(PATIENCE)? else {
            spike.kill()?;
            bail!("the machine was not done within {} s", PATIENCE.as_secs());
        };
        if !ended.status.success() {
            bail!("Spike: {}\n{}", ended.status, String::from_utf8_lossy(&ended.stdout));
        }
        let memory = memory(&fs::read_to_string(format!("{seen}.hex")).context("the memory")?)?;
        let length = fs::metadata(self.image).context("the image")?.len();
        if memory.len() as u64 != length {
            bail!("Spike printed {} bytes of {length}", memory.len());
        }
        fs::write(seen, memory).with_context(|| seen.to_owned())
    }

    /// Puts firmware and image into a program.
    fn link(&self, xtask: &Xtask, program: &str) -> Result<()> {
        let Bare { firmware, reset, end, image, address, .. } = self;
        let file = |ending: &str| format!("{program}{ending}");
        let (source, object, script) = (file(".S"), file(".o"), file(".ld"));
        fs::write(
            &source,
            format!(
                ".section .firmware,\"ax\",@progbits\n\
                 .globl _start\n\
                 _start: .incbin \"{firmware}\"\n\
                 .section .image,\"aw\",@progbits\n\
                 .globl begin_signature, end_signature\n\
                 begin_signature: .incbin \"{image}\"\n\
                 end_signature:\n"
            ),
        )?;
        // With a script, the linker gives its own headers no place in memory.
        let fromhost = end + 64;
        fs::write(
            &script,
            format!(
                "SECTIONS {{ .firmware {reset:#x} : {{ *(.firmware) }}\n\
                 .image {address:#x} : {{ *(.image) }} }}\n\
                 tohost = {end:#x}; fromhost = {fromhost:#x};\n"
            ),
        )?;
        let clang = xtask.toolbox.program(&COMPILERS, "clang")?;
        let assemble = cmd!(clang, "--target=riscv64-elf", "-c", source, "-o", &object);
        command::quiet("assembling", &assemble)?;
        let linker = xtask.toolbox.program(&COMPILERS, "ld.lld")?;
        let link = cmd!(linker, "-T", script, object, "-o", program);
        command::quiet("linking", &link).map(drop)
    }
}

/// The bytes of memory that Spike printed, a doubleword on a line.
fn memory(printed: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(printed.len() / 2);
    for line in printed.lines() {
        let word = u64::from_str_radix(line, 16).with_context(|| line.to_owned())?;
        bytes.extend(word.to_le_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_printed_as_doublewords() {
        assert_eq!(
            memory("0000000000000001\nff00000000000002\n").unwrap()[..9],
            [1, 0, 0, 0, 0, 0, 0, 0, 2]
        );
        assert!(memory("nonsense").is_err());
    }
}
