//! A machine that QEMU runs, by its QMP socket: memory as the monitor shows it (`xp`), where RAM
//! stands (`info mtree -f`), control registers (`info registers`).
//!
//! Nothing is written, and nothing is asked that changes the machine: it is not stopped. Only what
//! the map of memory calls RAM or ROM is read, since reading a device may change it. What the
//! monitor says is believed no more than a file: what cannot be read as an answer is an error.
//!
//! Sources: QEMU `docs/interop/qmp-spec`, `monitor/hmp-cmds-target.c` (`xp`), `softmmu/physmem.c`
//! (`info mtree`), `target/i386/cpu-dump.c` (`info registers`).

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};

use object::elf::{EM_386, EM_AARCH64, EM_PPC64, EM_RISCV, EM_X86_64};
use serde_json::{Value, json};

use crate::extents::{Extent, Extents};
use crate::notes::{Notes, X86Registers, is_wide};
use crate::source::Source;
use crate::{Form, Image, ImageError};

const FORM: &str = "QMP connection";
/// The most bytes of a line: a page of memory takes 28 KiB.
const MOST_LINE: u64 = 8 << 20;
/// The most lines that are passed over while an answer is waited for.
const MOST_EVENTS: usize = 1 << 16;
/// Bytes that are asked for at a time.
const CHUNK: usize = 4096;

fn damaged(why: impl Into<String>) -> ImageError {
    ImageError::Damaged { form: FORM, why: why.into() }
}

/// A connection that commands were negotiated on.
struct Qmp<'s> {
    reader: BufReader<Box<dyn Read + 's>>,
    writer: Box<dyn Write + 's>,
}

impl Qmp<'_> {
    fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        self.reader.by_ref().take(MOST_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU has gone"));
        }
        serde_json::from_slice(&line).map_err(io::Error::from)
    }

    /// What a command returns.
    fn ask(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        // In one piece: the other side may answer each.
        self.writer.write_all(format!("{line}\n").as_bytes())?;
        self.writer.flush()?;
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

    /// What the monitor for people says.
    fn monitor(&mut self, line: &str) -> io::Result<String> {
        match self.ask("human-monitor-command", &json!({ "command-line": line }))? {
            Value::String(text) => Ok(text),
            _ => Err(io::Error::other(format!("QEMU's answer to {line} is no text"))),
        }
    }
}

/// Physical memory, whose offsets are addresses.
struct Machine<'s>(RefCell<Qmp<'s>>);

impl Source for Machine<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
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
        let reader = BufReader::new(Box::new(reader) as Box<dyn Read + 's>);
        let mut qmp = Qmp { reader, writer: Box::new(writer) };
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
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const MTREE: &str = "FlatView #0\r\n AS \"I/O\", root: io\r\n Root memory region: io\r\n  \
        0000000000000000-0000000000000007 (prio 0, i/o): dma-chan\r\n\r\nFlatView #1\r\n AS \
        \"cpu-memory-0\", root: system\r\n AS \"memory\", root: system\r\n Root memory region: \
        system\r\n  0000000000000000-00000000000bffff (prio 0, ram): pc.ram KVM\r\n  \
        00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n  \
        00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios @0000000000000010 KVM\r\n  \
        0000000100000000-000000017fffffff (prio 0, ram): pc.ram @0000000080000000 KVM\r\n\r\n\
        FlatView #2\r\n AS \"other\", root: other\r\n  \
        0000000000000000-0000000000000fff (prio 0, ram): other.ram\r\n";
    const CPUS: &str = "\r\nCPU#0\r\nRAX=ffffffff9ac66c80 RBX=0000000000000000\r\n\
        RIP=ffffffff9ac6702b RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n\
        CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\r\n\
        CR0=80050033 CR2=00007f1234 CR3=000000000210a000 CR4=000006f0\r\n\
        EFER=0000000000000d01\r\n\r\nCPU#1\r\nEIP=0000fff0 EFL=00000002\r\n\
        CS =f000 ffff0000 0000ffff 00009b00\r\nCR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000\r\n\
        EFER=0000000000000000\r\n";

    #[test]
    fn what_the_monitor_says() {
        let want = [(0, 0xc_0000), (0xfffc_0000, 0x4_0000), (0x1_0000_0000, 0x8000_0000)];
        assert_eq!(ram(MTREE), want);
        let [first, second] = registers(CPUS)[..] else { panic!("{:?}", registers(CPUS)) };
        assert_eq!((first.cr3, first.cr4, first.efer), (0x210_a000, 0x6f0, Some(0xd01)));
        assert_eq!((first.rflags, first.cs, first.wide), (Some(0x246), Some(0x10), true));
        assert_eq!((second.cr0, second.wide), (0x6000_0010, false));
        let two = "0000000000001000: 0x12 0x34\r\n0000000000001002: 0xff\r\n";
        assert_eq!(bytes(two), Some(vec![0x12, 0x34, 0xff]));
        for no in ["Cannot access memory", "0: 12", "0: 0x123"] {
            assert_eq!(bytes(no), None, "{no}");
        }
    }

    /// The answers of a QEMU, one after the other, an event among them.
    fn answers(page: &str, running: bool) -> Vec<u8> {
        let texts = [
            json!({ "QMP": { "version": {}, "capabilities": [] } }),
            json!({ "return": {} }),
            json!({ "return": { "arch": "x86_64" } }),
            json!({ "event": "RESUME" }),
            json!({ "return": { "status": "x", "running": running } }),
            json!({ "return": CPUS }),
            json!({ "return": MTREE }),
            json!({ "return": page }),
        ];
        texts.iter().flat_map(|text| format!("{text}\r\n").into_bytes()).collect()
    }

    #[test]
    fn a_machine_is_read_where_it_has_memory() {
        for running in [false, true] {
            let (answers, mut sent) = (answers("0000000000002000: 0x12 0x34", running), Vec::new());
            let image = Image::open_qmp(&answers[..], &mut sent).unwrap();
            assert_eq!((image.form(), image.machine()), (Form::Qmp, Some(62)));
            assert_eq!((image.notes().x86.len(), image.bytes()), (2, 0x8010_0000));
            assert_eq!(image.warnings().len(), usize::from(running));
            let mut buffer = [0; 2];
            assert!(image.read(0xc_0000, &mut buffer).is_err(), "a device");
            image.read(0x2000, &mut buffer).unwrap();
            assert_eq!(buffer, [0x12, 0x34]);
            assert!(image.read(0x2000, &mut buffer).is_err(), "it has gone");
            drop(image);
            let sent = String::from_utf8(sent).unwrap();
            assert!(sent.contains("xp /2bx 0x2000"), "{sent}");
            assert!(!sent.contains("stop") && !sent.contains("cont"), "nothing is changed");
        }
    }

    #[test]
    fn others_are_refused() {
        let no = |bytes: &[u8]| Image::open_qmp(bytes, Vec::new()).unwrap_err().to_string();
        assert!(no(b"{\"hello\":1}\n").contains("greets as something else"));
        assert!(no(b"").contains("cannot be read") && no(b"SSH-2.0\n").contains("cannot be read"));
        let mut all = answers("", false);
        all.truncate(all.len() / 2);
        no(&all);
    }
}
