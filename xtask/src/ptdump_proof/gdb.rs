//! QEMU's debug stub, for the registers that its monitor does not show: system registers.
//!
//! "GDB Remote Serial Protocol" (GDB's manual, appendix E): packets, `qXfer:features:read`, `p`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the stub of a QEMU that stands still.
pub struct Gdb {
    stream: UnixStream,
}

impl Gdb {
    /// Connects. QEMU stops the guest, if it runs.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("connecting to QEMU's debug stub")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// The values of system registers, by their names.
    pub fn system_registers<const N: usize>(&mut self, names: [&str; N]) -> Result<[u64; N]> {
        let target = self.feature("target.xml")?;
        let file = attributes(&target, "href").find(|file| file.contains("system-registers"));
        let registers = self.feature(file.context("the stub has no system registers")?)?;
        let mut values = [0; N];
        for (name, value) in names.iter().zip(&mut values) {
            *value = self.register(&registers, name).with_context(|| (*name).to_owned())?;
        }
        Ok(values)
    }

    fn register(&mut self, registers: &str, name: &str) -> Result<u64> {
        let mut all = registers.split("<reg ");
        let register = all.find(|text| attributes(text, "name").next() == Some(name));
        let number = register.and_then(|text| attributes(text, "regnum").next());
        let number: u32 = number.context("the stub does not number it")?.parse()?;
        let answer = self.ask(&format!("p{number:x}"))?;
        // Bytes in the machine's order, which is little-endian.
        let value = u64::from_str_radix(&answer, 16).with_context(|| answer.clone())?;
        Ok(value.swap_bytes() >> (64 - 4 * answer.len().min(16)))
    }

    /// A file of the target's description.
    fn feature(&mut self, file: &str) -> Result<String> {
        let mut text = String::new();
        loop {
            let answer = self.ask(&format!("qXfer:features:read:{file}:{:x},800", text.len()))?;
            match answer.split_at_checked(1) {
                Some(("m", part)) => text.push_str(part),
                Some(("l", part)) => return Ok(text + part),
                _ => bail!("{file}: the stub says {answer:?}"),
            }
        }
    }

    /// Sends a packet; returns what the answer holds.
    fn ask(&mut self, packet: &str) -> Result<String> {
        write!(self.stream, "${packet}#{:02x}", sum(packet.as_bytes()))?;
        // An acknowledgement comes before the answer, and perhaps what happened before.
        while self.byte()? != b'$' {}
        let mut answer = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => answer.push(byte),
            }
        }
        let told = [self.byte()?, self.byte()?];
        if told != *format!("{:02x}", sum(&answer)).as_bytes() {
            bail!("the stub's answer to {packet} is damaged");
        }
        self.stream.write_all(b"+")?;
        Ok(String::from_utf8(answer)?)
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).context("QEMU's debug stub")?;
        Ok(byte[0])
    }
}

/// A packet's checksum.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The values of all attributes of this name.
fn attributes<'t>(text: &'t str, name: &str) -> impl Iterator<Item = &'t str> {
    let parts = text.split([' ', '/', '>', '<', '\n']);
    let prefix = format!("{name}=");
    parts.filter_map(move |part| {
        let value = part.strip_prefix(&prefix)?;
        value.strip_prefix(['"', '\'']).and_then(|value| value.strip_suffix(['"', '\'']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found() {
        let text = "<xi:include href=\"a.xml\"/><reg name='TCR_EL1' bitsize='64' regnum='7'/>";
        assert_eq!(attributes(text, "href").next(), Some("a.xml"));
        assert_eq!(attributes(text, "name").next(), Some("TCR_EL1"));
        assert_eq!(attributes(text, "regnum").next(), Some("7"));
        assert_eq!(attributes(text, "size").next(), None);
        assert_eq!(sum(b"OK"), 0x9a);
    }
}
