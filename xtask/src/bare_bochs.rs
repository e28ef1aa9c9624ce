//! A bare machine of Bochs': no firmware but ours, and an image of memory on which it works. Bochs
//! has what QEMU's software emulation lacks: VMX with EPT.
//!
//! Debian builds Bochs with its debugger, which saves the memory when the machine comes to a magic
//! breakpoint.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use duct::cmd;

/// How long the machine may take: a hundred times as long as it does.
const PATIENCE: Duration = Duration::from_secs(300);

/// What machine it is.
pub struct Bare<'m> {
    /// Bochs’ program.
    pub bochs: &'m Path,
    /// Bochs’ name for the processor.
    pub processor: &'m str,
    /// The file with the firmware: 64 KiB.
    pub firmware: &'m str,
    /// The file with the image, and where it stands.
    pub image: &'m str,
    pub address: u64,
}

impl Bare<'_> {
    /// Runs the machine until it is done, and saves the image in the file `seen`. Other files are
    /// made in `folder`.
    pub fn run(&self, folder: &Path, seen: &str) -> Result<()> {
        let Bare { bochs, processor, firmware, image, address } = self;
        let file = |name: &str| folder.join(name).display().to_string();
        let length = fs::metadata(image).context("the image")?.len();
        let (configuration, commands, vga, log) =
            (file("bochsrc"), file("commands"), file("vga"), file("log"));
        fs::write(&vga, empty_vga_bios())?;
        fs::write(
            &configuration,
            format!(
                "cpu: model={processor}, reset_on_triple_fault=0\n\
                 memory: guest=512, host=512\n\
                 romimage: file={firmware}\n\
                 vgaromimage: file={vga}\n\
                 optramimage1: file={image}, address={address:#x}\n\
                 display_library: term\n\
                 sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
                 magic_break: enabled=1\n\
                 panic: action=fatal\n\
                 log: {log}\n"
            ),
        )?;
        fs::write(
            &commands,
            format!("continue\nwritemem \"{seen}\" {address:#x} {length:#x}\nquit\n"),
        )?;
        // Bochs ends with us, however we end.
        let bochs = bochs.to_string_lossy();
        let arguments =
            ["--pdeathsig", "KILL", "--", &bochs, "-q", "-f", &configuration, "-rc", &commands];
        let bochs = cmd("setpriv", arguments)
            .env("TERM", "dumb")
            .stdin_null()
            .stderr_to_stdout()
            .stdout_capture()
            .unchecked()
            .start()
            .context("starting Bochs")?;
        if bochs.wait_timeout(PATIENCE)?.is_none() {
            bochs.kill()?;
            bail!(
                "the machine was not done within {} s:\n{}",
                PATIENCE.as_secs(),
                complaints(&log)
            );
        }
        match fs::metadata(seen) {
            Ok(saved) if saved.len() == length => Ok(()),
            _ => bail!("Bochs saved no image:\n{}", complaints(&log)),
        }
    }
}

/// The last lines in which Bochs complains.
fn complaints(log: &str) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let wrong = |line: &&str| line.get(11..12).is_some_and(|kind| "ep".contains(kind));
    let mut lines: Vec<_> = log.lines().rev().filter(wrong).take(10).collect();
    lines.reverse();
    lines.join("\n")
}

/// A video BIOS, without which Bochs does not begin: one that does nothing. Its bytes add up to 0.
fn empty_vga_bios() -> Vec<u8> {
    let mut bios = vec![0; 512];
    // The signature, the length in blocks of 512 bytes, RETF.
    bios[..4].copy_from_slice(&[0x55, 0xaa, 1, 0xcb]);
    bios[511] = bios.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
    bios
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bios_adds_up_to_nothing() {
        assert_eq!(empty_vga_bios().into_iter().fold(0, u8::wrapping_add), 0);
    }

    #[test]
    fn errors_and_panics_are_complaints() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log").display().to_string();
        fs::write(
            &log,
            "00000000000i[A] all is well\n00000000001e[B] not so\n00000000002p[C] >>PANIC<<\n",
        )
        .unwrap();
        assert_eq!(complaints(&log), "00000000001e[B] not so\n00000000002p[C] >>PANIC<<");
    }
}
