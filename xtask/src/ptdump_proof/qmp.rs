//! QEMU's machine protocol: a line of JSON each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take for an answer: a dump takes a while.
const PATIENCE: Duration = Duration::from_secs(300);

/// A connection to a running QEMU.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects, and says that it is ready for commands.
    pub fn connect(socket: &Path) -> Result<Self> {
        let writer = UnixStream::connect(socket).context("connecting to QEMU")?;
        writer.set_read_timeout(Some(PATIENCE))?;
        let mut it = Self { reader: BufReader::new(writer.try_clone()?), writer };
        it.line().context("QEMU's greeting")?;
        it.execute("qmp_capabilities", &json!({}))?;
        Ok(it)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU has gone");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Runs a command; returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        writeln!(self.writer, "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let answer = self.line().with_context(|| format!("QEMU's answer to {command}"))?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            // Anything else is an event.
        }
    }
}
