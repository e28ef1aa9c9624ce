//! A machine that QEMU runs, by its QMP socket: memory as the monitor shows it (`xp`), where RAM
//! stands (`info mtree -f`), control registers (`info registers`).
//!
//! No memory is written, and nothing is asked that changes the machine: it is not stopped. Only
//! what the map of memory calls RAM or ROM is read, since reading a device may change it. What the
//! monitor says is believed no more than a file: what cannot be read as an answer is an error.
//!
//! Through a Unix socket QEMU is given a file without a name (`add-fd`), into which it copies
//! memory (`pmemsave`): a hundred times as fast as text. Where it does not (over TCP, through a
//! proxy, under a sandbox) the monitor's text is read.
//!
//! Sources: QEMU `docs/interop/qmp-spec`, `monitor/hmp-cmds-target.c` (`xp`), `softmmu/physmem.c`
//! (`info mtree`), `target/i386/cpu-dump.c` (`info registers`), `qapi/misc.json` (`add-fd`),
//! `qapi/machine.json` (`pmemsave`).

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use object::elf::{EM_386, EM_AARCH64, EM_PPC64, EM_RISCV, EM_X86_64};
use serde_json::{Value, json};

use crate::extents::{Extent, Extents};
use crate::notes::{Notes, X86Registers, is_wide};
use crate::shared_file;
use crate::source::Source;
use crate::{Form, Image, ImageError};

const FORM: &str = "QMP connection";
/// The most bytes of a line: a page of memory takes 28 KiB.
const MOST_LINE: u64 = 8 << 20;
/// The most lines that are passed over while an answer is waited for.
const MOST_EVENTS: usize = 1 << 16;
/// Bytes that are asked for at a time as text,
const CHUNK: usize = 4096;
/// and by way of a file: QEMU does nothing else meanwhile, for some milliseconds.
const SHARED_CHUNK: usize = 16 << 20;
/// Fewer are asked for as text in any case.
const LEAST_SHARED: usize = 64;

fn damaged(why: impl Into<String>) -> ImageError {
    ImageError::Damaged { form: FORM, why: why.into() }
}

/// A connection that commands were negotiated on.
struct Qmp<'s> {
    reader: BufReader<Box<dyn Read + 's>>,
    writer: Box<dyn Write + 's>,
    shared: Option<Shared>,
}

/// A file that QEMU was given.
struct Shared {
    file: File,
    /// QEMU's number of it, and of the set that it put it in.
    number: u64,
    set: u64,
}

impl<'s> Qmp<'s> {
    fn new(reader: impl Read + 's, writer: impl Write + 's) -> Self {
        let reader = BufReader::new(Box::new(reader) as Box<dyn Read + 's>);
        Self { reader, writer: Box::new(writer), shared: None }
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        self.reader.by_ref().take(MOST_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(gone());
        }
        serde_json::from_slice(&line).map_err(io::Error::from)
    }

    /// What a command returns.
    fn ask(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        // In one piece: the other side may answer each.
        let line = line_of(command, arguments);
        let sent = self.writer.write_all(line.as_bytes()).and_then(|()| self.writer.flush());
        // By its kind it would be taken for that of the program's own output.
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => gone(),
            _ => error,
        })?;
        self.answer(command)
    }

    fn answer(&mut self, command: &str) -> io::Result<Value> {
        for _ in 0..MOST_EVENTS {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("QEMU refuses {command}: {error}")));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
        Err(io::Error::other(format!("QEMU does not answer {command}")))
    }

    /// Gives QEMU a file by way of `socket`, which this is a connection over.
    fn share(&mut self, socket: &UnixStream) -> io::Result<()> {
        let file = shared_file::unnamed()?;
        let line = line_of("add-fd", &json!({ "opaque": "memory-image" }));
        shared_file::send(socket, line.as_bytes(), &file)?;
        let answer = self.answer("add-fd")?;
        self.shared = match (answer["fd"].as_u64(), answer["fdset-id"].as_u64()) {
            (Some(number), Some(set)) => Some(Shared { file, number, set }),
            _ => None,
        };
        Ok(())
    }

    /// Has QEMU close the file. (Releases before 9.1 wait until the machine runs.)
    fn unshare(&mut self) {
        if let Some(Shared { number, set, .. }) = self.shared.take() {
            // The answer is waited for: what comes behind the last command is not read. If QEMU has
            // gone, so has the file.
            let _ = self.ask("remove-fd", &json!({ "fdset-id": set, "fd": number }));
        }
    }

    /// Reads physical memory by way of the file that QEMU was given; an error if there is none, or
    /// QEMU does not write there.
    fn read_shared(&mut self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = address;
        for part in buffer.chunks_mut(SHARED_CHUNK) {
            let shared = self.shared.as_ref().ok_or(io::ErrorKind::Unsupported)?;
            let name = format!("/proc/self/fd/{}", shared.number);
            let arguments = json!({ "val": at, "size": part.len(), "filename": name });
            self.ask("pmemsave", &arguments)?;
            let shared = self.shared.as_ref().ok_or(io::ErrorKind::Unsupported)?;
            shared.file.read_exact_at(part, 0)?;
            at = at.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    /// What the monitor for people says.
    fn monitor(&mut self, line: &str) -> io::Result<String> {
        match self.ask("human-monitor-command", &json!({ "command-line": line }))? {
            Value::String(text) => Ok(text),
            _ => Err(io::Error::other(format!("QEMU's answer to {line} is no text"))),
        }
    }
}

impl Drop for Qmp<'_> {
    fn drop(&mut self) {
        self.unshare();
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU has gone")
}

/// A command as it is sent.
fn line_of(command: &str, arguments: &Value) -> String {
    format!("{}\n", json!({ "execute": command, "arguments": arguments }))
}

/// Physical memory, whose offsets are addresses.
struct Machine<'s>(RefCell<Qmp<'s>>);

impl Source for Machine<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.len() >= LEAST_SHARED {
            let mut qmp = self.0.borrow_mut();
            if qmp.shared.is_some() {
                if qmp.read_shared(offset, buffer).is_ok() {
                    return Ok(buffer.len());
                }
                // It never will.
                qmp.unshare();
            }
        }
        let mut at = offset;
        for part in buffer.chunks_mut(CHUNK) {
            let text = self.0.borrow_mut().monitor(&format!("xp /{}bx {at:#x}", part.len()))?;
            let bytes = bytes(&text).filter(|bytes| bytes.len() == part.len());
            let wrong = || {
                let said: String = text.chars().take(80).collect();
                io::Error::other(format!("QEMU says of memory at {at:#x}: {said:?}"))
            };
            part.copy_from_slice(&bytes.ok_or_else(wrong)?);
            at = at.saturating_add(part.len() as u64);
        }
        Ok(buffer.len())
    }
}

/// The bytes in lines like `0000000000001000: 0x12 0x34`.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (_, bytes) = line.split_once(':')?;
        for word in bytes.split_whitespace() {
            all.push(u8::from_str_radix(word.strip_prefix("0x")?, 16).ok()?);
        }
    }
    Some(all)
}

/// Where RAM and ROM stand, in lines like
/// `  0000000000000000-000000000009ffff (prio 0, ram): pc.ram KVM` of the view of `memory`: first
/// address and bytes.
fn ram(text: &str) -> Vec<(u64, u64)> {
    let mut within = false;
    let mut all = Vec::new();
    for line in text.lines() {
        let line = line.trim_end();
        if line.starts_with("FlatView") {
            within = false;
        } else if line.starts_with(" AS \"memory\"") {
            within = true;
        }
        let range = || {
            let (range, rest) = line.trim_start().split_once(" (prio ")?;
            let (_, kind) = rest.split_once(", ")?;
            let kind = kind.split_once(')')?.0;
            let (first, last) = range.split_once('-')?;
            let [first, last] = [first, last].map(|text| u64::from_str_radix(text, 16).ok());
            let bytes = last?.checked_sub(first?)?.saturating_add(1);
            matches!(kind, "ram" | "rom" | "romd").then_some((first?, bytes))
        };
        all.extend(range().filter(|_| within));
    }
    all
}

/// The registers of each CPU of x86, in blocks that begin with `CPU#`.
fn registers(text: &str) -> Vec<X86Registers> {
    let block = |block: &str| {
        let value = |name: &str| {
            let mut words = block.split(|it: char| it.is_whitespace() || it == '=');
            words.find(|word| *word == name)?;
            u64::from_str_radix(words.find(|word| !word.is_empty())?, 16).ok()
        };
        Some(X86Registers {
            cr0: value("CR0")?,
            cr3: value("CR3")?,
            cr4: value("CR4")?,
            efer: value("EFER"),
            rflags: value("RFL").or_else(|| value("EFL")),
            wide: value("RIP").is_some_and(is_wide),
            cs: value("CS").map(|cs| cs as u16),
        })
    };
    text.split("CPU#").skip(1).filter_map(block).collect()
}

impl<'s> Image<'s> {
    /// The memory of a machine that QEMU runs, over a connection to its QMP socket. It is read as
    /// it is asked for; a warning says if the machine runs meanwhile.
    ///
    /// # Errors
    /// [`ImageError::Io`] of the connection, [`ImageError::Damaged`] if what answers is no QEMU.
    pub fn open_qmp(reader: impl Read + 's, writer: impl Write + 's) -> Result<Self, ImageError> {
        Self::of_machine(Qmp::new(reader, writer), None)
    }

    /// The same over a Unix socket. Memory comes by way of a file that QEMU is given, where QEMU
    /// takes it.
    ///
    /// # Errors
    /// As [`open_qmp`](Self::open_qmp).
    pub fn open_qmp_unix(socket: &UnixStream) -> Result<Self, ImageError> {
        let qmp = Qmp::new(socket.try_clone()?, socket.try_clone()?);
        Self::of_machine(qmp, Some(socket))
    }

    fn of_machine(mut qmp: Qmp<'s>, socket: Option<&UnixStream>) -> Result<Self, ImageError> {
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(damaged("it greets as something else"));
        }
        qmp.ask("qmp_capabilities", &json!({}))?;
        let target = qmp.ask("query-target", &json!({}))?;
        let machine = match target["arch"].as_str() {
            Some("x86_64") => Some(EM_X86_64),
            Some("i386") => Some(EM_386),
            Some("ppc64") => Some(EM_PPC64),
            Some("aarch64") => Some(EM_AARCH64),
            Some("riscv64") => Some(EM_RISCV),
            _ => None,
        };
        let runs = qmp.ask("query-status", &json!({}))?["running"].as_bool() != Some(false);
        let mut notes = Notes::default();
        if matches!(machine, Some(EM_X86_64 | EM_386)) {
            notes.x86 = registers(&qmp.monitor("info registers -a")?);
            notes.cpus = notes.x86.len();
        }
        let ram = ram(&qmp.monitor("info mtree -f")?);
        if ram.is_empty() {
            return Err(damaged("the machine has no memory"));
        }
        let extents =
            ram.into_iter().map(|(start, bytes)| Extent { start, bytes, file: 0, offset: start });
        if let Some(socket) = socket {
            // Without it, memory is read as text.
            let _ = qmp.share(socket);
        }
        let source = Machine(RefCell::new(qmp));
        let memory = Extents::new(vec![Box::new(source)], extents, [])?;
        let mut image = Self::of(Form::Qmp, machine, notes, Box::new(memory));
        if runs {
            let why = "the machine runs: what is read may change meanwhile, and not fit together \
                (`stop` in its monitor halts it)";
            image.warn(why.to_owned());
        }
        Ok(image)
    }
}

impl fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

#[cfg(test)]
mod tests;
