//! VMware's snapshots and suspended machines: memory in a `.vmem`, what belongs to it in a `.vmss`
//! or `.vmsn`, or both in one.
//!
//! Groups of 80 bytes (name, where its tags stand), then tags: a byte of flags, a byte that says
//! how long the name is, the name, up to three indices, the value or a block. Group `memory` says
//! where each region of physical memory stands in the `.vmem` (pages of 4 KiB), group `cpu` what
//! the CPUs' control registers held. Sources: volatility3 `layers/vmware.py`, crash
//! `vmware_vmss.c`.

use std::collections::BTreeMap;
use std::io;

use crate::extents::{Extent, Extents};
use crate::notes::{Notes, X86Registers, is_wide};
use crate::source::{Source, read_exact};
use crate::{Form, Image, ImageError};

const FORM: &str = "VMware state file";
const PAGE: u64 = 4096;
/// The most groups, and the most tags of a group that are read.
const MOST_GROUPS: u32 = 256;
const MOST_TAGS: usize = 1 << 20;
/// The most regions and the most CPUs.
const MOST_REGIONS: u64 = 1 << 10;

/// Whether a file begins as a state file does: the low four bits of the first byte are the version.
pub(crate) fn is_state(first: &[u8]) -> bool {
    matches!(
        first,
        [0xd0..=0xd3, 0xbe, 0xd2, 0xbe, ..]
            | [0xd0, 0xbe, 0xd0, 0xbe, ..]
            | [0xd1, 0xba, 0xd1, 0xba, ..]
    )
}

/// A value: a number, or a block that stands at an offset and is so long.
#[derive(Clone, Copy, Debug)]
enum Value {
    Number(u64),
    Block { offset: u64, bytes: u64, packed: bool },
}

/// A tag's name and indices.
type Name = (String, Vec<u32>);
type Tags = BTreeMap<Name, Value>;

/// A file that is read from front to back.
struct Cursor<'c> {
    source: &'c dyn Source,
    at: u64,
}

impl Cursor<'_> {
    fn bytes(&mut self, count: usize) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; count];
        if !read_exact(self.source, self.at, &mut bytes)? {
            return Ok(None);
        }
        self.at += count as u64;
        Ok(Some(bytes))
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, size: usize) -> io::Result<Option<u64>> {
        let bytes = self.bytes(size)?;
        Ok(bytes.map(|bytes| {
            bytes.iter().take(8).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        }))
    }

    /// The next tag; `None` at the end of the group, or of the file.
    fn tag(&mut self) -> io::Result<Option<(Name, Value)>> {
        let Some(head) = self.bytes(2)? else { return Ok(None) };
        let (flags, length) = (head[0], usize::from(head[1]));
        if (flags, length) == (0, 0) {
            return Ok(None);
        }
        let Some(name) = self.bytes(length)? else { return Ok(None) };
        let name = String::from_utf8_lossy(&name).into_owned();
        let mut indices = Vec::new();
        for _ in 0..flags >> 6 {
            let Some(index) = self.number(4)? else { return Ok(None) };
            indices.push(index as u32);
        }
        let value = match flags & 0x3f {
            kind @ (62 | 63) => {
                let (Some(bytes), Some(_), Some(padding)) =
                    (self.number(8)?, self.number(8)?, self.number(2)?)
                else {
                    return Ok(None);
                };
                let offset = self.at + padding;
                self.at = offset.saturating_add(bytes);
                Value::Block { offset, bytes, packed: kind == 62 }
            }
            size => {
                let Some(number) = self.number(usize::from(size))? else { return Ok(None) };
                Value::Number(number)
            }
        };
        Ok(Some(((name, indices), value)))
    }
}

/// The tags of `group`.
fn tags(source: &dyn Source, group: &str) -> Result<Tags, ImageError> {
    let damaged = |why: &str| ImageError::Damaged { form: FORM, why: why.to_owned() };
    let mut first = [0; 12];
    if !read_exact(source, 0, &mut first)? {
        return Err(damaged("it is shorter than its header"));
    }
    let groups = u32::from_le_bytes([first[8], first[9], first[10], first[11]]);
    for n in 0..groups.min(MOST_GROUPS) {
        let mut entry = [0; 80];
        if !read_exact(source, 12 + u64::from(n) * 80, &mut entry)? {
            return Err(damaged("its groups are not all in the file"));
        }
        let name = entry[..64].split(|byte| *byte == 0).next().unwrap_or_default();
        if name != group.as_bytes() {
            continue;
        }
        let mut word = [0; 8];
        word.copy_from_slice(&entry[64..72]);
        let mut cursor = Cursor { source, at: u64::from_le_bytes(word) };
        let mut tags = Tags::new();
        while let Some((name, value)) = cursor.tag()? {
            tags.insert(name, value);
            if tags.len() > MOST_TAGS {
                let (what, limit) = ("tags", MOST_TAGS as u64);
                return Err(ImageError::TooMany { form: FORM, what, count: limit + 1, limit });
            }
        }
        return Ok(tags);
    }
    Ok(Tags::new())
}

fn number(tags: &Tags, name: &str, indices: &[u32]) -> Option<u64> {
    match tags.get(&(name.to_owned(), indices.to_vec()))? {
        Value::Number(number) => Some(*number),
        Value::Block { .. } => None,
    }
}

/// Opens the machine that `state` describes; `memory` is its `.vmem`, if there is one.
pub(crate) fn open<'s>(
    state: Box<dyn Source + 's>,
    memory: Option<Box<dyn Source + 's>>,
) -> Result<Image<'s>, ImageError> {
    let mut first = [0; 4];
    if !read_exact(&*state, 0, &mut first)? || first[0] & 0xf == 0 {
        return Err(ImageError::Foreign {
            form: "a VMware state file of 32 bits",
            advice: "give its .vmem, and --extent where its pieces stand",
        });
    }
    let tags_of_memory = tags(&*state, "memory")?;
    let notes = registers(&*state)?;
    let inside = tags_of_memory.iter().find(|((name, _), _)| name == "Memory").map(|(_, it)| *it);
    let (file, base, length) = match (memory, inside) {
        (Some(memory), _) => {
            let length = memory.size()?;
            (memory, 0, length)
        }
        (None, Some(Value::Block { offset, bytes, packed: false })) => (state, offset, bytes),
        (None, Some(Value::Block { packed: true, .. })) => {
            return Err(ImageError::Foreign {
                form: "a VMware state file with packed memory",
                advice: "take a snapshot with a .vmem",
            });
        }
        (None, _) => {
            return Err(ImageError::Foreign {
                form: "a VMware state file without memory",
                advice: "its .vmem must stand beside it, with the same name",
            });
        }
    };
    let regions = number(&tags_of_memory, "regionsCount", &[]).unwrap_or(0).min(MOST_REGIONS);
    let mut extents = Vec::new();
    for n in 0..regions as u32 {
        let field = |name| number(&tags_of_memory, name, &[n]).and_then(|it| it.checked_mul(PAGE));
        let region = (field("regionPPN"), field("regionPageNum"), field("regionSize"));
        if let (Some(start), Some(within), Some(bytes)) = region {
            extents.push(Extent { start, bytes, file: 0, offset: base.saturating_add(within) });
        }
    }
    if extents.is_empty() {
        extents.push(Extent { start: 0, bytes: length, file: 0, offset: base });
    }
    let memory = Extents::new(vec![file], extents, [])?;
    let machine = (!notes.x86.is_empty()).then_some(object::elf::EM_X86_64);
    Ok(Image::of_extents(Form::Vmware, machine, notes, memory, |lost| {
        format!("the memory's file is cut off: {lost} bytes of memory are missing")
    }))
}

/// The control registers of each CPU: as one block, or as single values.
fn registers(state: &dyn Source) -> Result<Notes, ImageError> {
    let tags = tags(state, "cpu")?;
    let mut notes = Notes::default();
    let cpus = number(&tags, "cpu:numVCPUs", &[]).unwrap_or(1).min(1 << 12) as u32;
    for cpu in 0..cpus {
        let mut cr = [0_u64; 5];
        let block = tags.get(&("CR64".to_owned(), vec![cpu]));
        if let Some(Value::Block { offset, bytes: 40.., packed: false }) = block {
            let mut bytes = [0; 40];
            if !read_exact(state, *offset, &mut bytes)? {
                continue;
            }
            for (register, bytes) in cr.iter_mut().zip(bytes.chunks_exact(8)) {
                *register = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            }
        } else {
            let one = |n| number(&tags, "CR64", &[cpu, n]);
            let (Some(cr0), Some(cr3), Some(cr4)) = (one(0), one(3), one(4)) else { continue };
            (cr[0], cr[3], cr[4]) = (cr0, cr3, cr4);
        }
        notes.cpus += 1;
        notes.x86.push(X86Registers {
            cr0: cr[0],
            cr3: cr[3],
            cr4: cr[4],
            efer: number(&tags, "EFER", &[cpu]),
            rflags: number(&tags, "rflags", &[cpu]),
            wide: number(&tags, "rip", &[cpu]).is_some_and(is_wide),
            cs: None,
        });
    }
    Ok(notes)
}
