//! kdump-compressed files of makedumpfile and QEMU, and makedumpfile's flattened form.

use memory_image::{Form, Image, ImageError, Source};

use crate::{Order, PAGE, check, pack, page};

/// A kdump-compressed file, as makedumpfile and QEMU write it.
pub(crate) struct Kdump {
    order: Order,
    /// The machine has 64 bits.
    wide: bool,
    version: u32,
    machine: &'static str,
    /// Which frames the machine has, and which are in the dump.
    present: Vec<u64>,
    pub(crate) dumped: Vec<u64>,
    /// The frames of this file of a split dump.
    split: Option<(u64, u64)>,
    flags: u32,
    vmcoreinfo: &'static [u8],
    notes: Vec<u8>,
}

impl Kdump {
    pub(crate) fn file(&self) -> Vec<u8> {
        let put = |bytes: &mut [u8], at, size, value| self.order.put(bytes, at, size, value);
        let frames = self.present.iter().max().map_or(0, |last| last + 1);
        let map_blocks = (frames.div_ceil(8) as usize).div_ceil(PAGE);
        let mut file = vec![0; PAGE * (2 + 2 * map_blocks)];
        file[..8].copy_from_slice(b"KDUMP   ");
        put(&mut file, 8, 4, self.version.into());
        file[12 + 4 * 65..][..self.machine.len()].copy_from_slice(self.machine.as_bytes());
        let sizes = [self.flags.into(), PAGE as u64, 1, 2 * map_blocks as u64, frames];
        for (n, value) in sizes.into_iter().enumerate() {
            put(&mut file, if self.wide { 424 } else { 412 } + 4 * n, 4, value);
        }
        // `kdump_sub_header`: split, first and last frame in words, in 64 bits, how many frames.
        let (split, short, word, long) = if self.wide { (12, 16, 8, 80) } else { (8, 12, 4, 56) };
        if let Some((first, end)) = self.split {
            put(&mut file, PAGE + split, 4, 1);
            for (at, size) in [(short, word), (long, 8)] {
                put(&mut file, PAGE + at, size, first);
                put(&mut file, PAGE + at + size, size, end);
            }
        }
        put(&mut file, PAGE + long + 16, 8, frames);
        for (n, map) in [&self.present, &self.dumped].into_iter().enumerate() {
            for frame in map {
                file[PAGE * (2 + n * map_blocks) + (frame / 8) as usize] |= 1 << (frame % 8);
            }
        }
        let (first, end) = self.split.unwrap_or((0, u64::MAX));
        let mine: Vec<_> =
            self.dumped.iter().filter(|frame| (first..end).contains(frame)).collect();
        let mut descriptors = file.len();
        file.resize(descriptors + 24 * mine.len(), 0);
        for frame in mine {
            let whole = page(*frame);
            let packed = pack(self.flags, &whole);
            // What does not become smaller is stored as it is.
            let (stored, flags) =
                if packed.len() < PAGE { (packed, self.flags) } else { (whole, 0) };
            let offset = file.len() as u64;
            put(&mut file, descriptors, 8, offset);
            put(&mut file, descriptors + 8, 4, stored.len() as u64);
            put(&mut file, descriptors + 12, 4, flags.into());
            descriptors += 24;
            file.extend(stored);
        }
        let offset = file.len() as u64;
        let at = PAGE + if self.wide { 32 } else { 20 };
        put(&mut file, at, 8, offset);
        put(&mut file, at + 8, word, self.vmcoreinfo.len() as u64);
        file.extend(self.vmcoreinfo);
        let offset = file.len() as u64;
        let at = PAGE + if self.wide { 48 } else { 32 };
        put(&mut file, at, 8, offset);
        put(&mut file, at + 8, word, self.notes.len() as u64);
        file.extend(&self.notes);
        file
    }
}

const INFO: &[u8] = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n";

pub(crate) fn kdump(flags: u32, big: bool) -> Kdump {
    let order = Order { big };
    let present: Vec<u64> = (0..40).chain(5000..5010).chain(70_000..70_003).collect();
    let dumped = present.iter().copied().filter(|frame| frame % 5 != 4).collect();
    let machine = if big { "ppc64" } else { "x86_64" };
    let wide = true;
    Kdump {
        order,
        wide,
        version: 6,
        machine,
        present,
        dumped,
        split: None,
        flags,
        vmcoreinfo: INFO,
        notes: Vec::new(),
    }
}

/// makedumpfile's flattened form of a file, in pieces of this length, not in order.
fn flattened(file: &[u8], length: usize) -> Vec<u8> {
    let mut flat = b"makedumpfile\0\0\0\0".to_vec();
    flat.extend([1_u64.to_be_bytes(), 1_u64.to_be_bytes()].concat());
    flat.resize(4096, 0);
    let mut pieces: Vec<_> = file.chunks(length).enumerate().collect();
    pieces.reverse();
    for (n, piece) in pieces {
        flat.extend(((n * length) as u64).to_be_bytes());
        flat.extend((piece.len() as u64).to_be_bytes());
        flat.extend(piece);
    }
    flat.extend([0xff; 16]);
    flat
}

#[test]
fn kdump_compressed_in_every_codec_and_byte_order() {
    for (flags, big) in [(0, false), (1, false), (2, true), (4, false), (0x20, false), (1, true)] {
        let kdump = kdump(flags, big);
        let left_out: Vec<_> = kdump.present.iter().copied().filter(|it| it % 5 == 4).collect();
        let file = kdump.file();
        let files = [file.clone(), flattened(&file, 1000), flattened(&file, 70_000)];
        for file in files {
            let image = Image::open(&file[..], 0).unwrap();
            assert_eq!(image.form(), Form::Kdump);
            assert_eq!(image.machine(), Some(if big { 21 } else { 62 }));
            assert_eq!(image.notes().vmcoreinfo[0].get("OSRELEASE"), Some("6.1.0"));
            assert!(image.warnings().is_empty(), "{:?}", image.warnings());
            check(&image, &kdump.dumped, &left_out, &[41, 69_999, 70_003, 1 << 40]);
        }
    }
}

#[test]
fn a_dump_of_a_machine_of_32_bits() {
    let whole = Kdump { wide: false, machine: "i686", ..kdump(1, false) };
    let file = whole.file();
    let image = Image::open(&file[..], 0).unwrap();
    assert_eq!(image.machine(), Some(3));
    assert_eq!(image.notes().vmcoreinfo[0].get("OSRELEASE"), Some("6.1.0"));
    check(&image, &whole.dumped, &[4, 34], &[41, 69_999]);
    let part = Kdump { split: Some((30, 5004)), ..whole };
    let file = part.file();
    let image = Image::open(&file[..], 0).unwrap();
    assert!(image.warnings()[0].contains("not all of its files"), "{:?}", image.warnings());
    assert!(image.holds(31 << 12, 4096) && !image.holds(0, 4096));
}

/// A note as ELF has it.
fn note(name: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32 + 1, description.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [[name, b"\0"].concat(), description.to_vec()] {
        note.extend(&part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

#[test]
fn what_machine_it_is_the_notes_say_where_the_header_does_not() {
    // QEMU's header of a PC is that of a 64-bit machine in any mode, since firmware ends at 4 GiB.
    let mut state = [0; 440];
    state[0] = 1;
    let qemu = note(b"QEMU", 0, &state);
    for (wide, name, status, qemu, want) in [
        (true, "Unknown", 144, &qemu[..], Some(3)),
        (false, "Unknown", 144, &qemu, Some(3)),
        (true, "Unknown", 336, &qemu, Some(62)),
        // The header has the first word.
        (true, "x86_64", 144, &qemu, Some(62)),
        // Of another size, and of another machine (s390x has as many bytes).
        (true, "Unknown", 376, &qemu, None),
        (true, "Unknown", 336, &[], None),
    ] {
        // The first CPU's alone counts.
        let status = [note(b"CORE", 1, &vec![0; status]), note(b"CORE", 1, &[0; 200])].concat();
        let notes = [&status, qemu].concat();
        let file = Kdump { wide, machine: name, notes, ..kdump(1, false) }.file();
        let image = Image::open(&file[..], 0).unwrap();
        assert_eq!(image.machine(), want, "{name} {}", image.notes().cpus);
        assert_eq!(image.notes().cpus, 2);
        assert_eq!(image.notes().x86.len(), usize::from(!qemu.is_empty()));
    }
}

#[test]
fn a_split_dump_comes_in_parts() {
    let parts = [(0, 30), (30, 5004), (5004, 70_003)].map(|split| {
        let kdump = Kdump { split: Some(split), ..kdump(1, false) };
        kdump.file()
    });
    let whole = kdump(1, false);
    let open = |which: &[usize]| {
        let sources = which.iter().map(|n| Box::new(&parts[*n][..]) as Box<dyn Source>);
        Image::open_parts(sources.collect(), 0)
    };
    let image = open(&[2, 0, 1]).unwrap();
    assert!(image.warnings().is_empty(), "{:?}", image.warnings());
    check(&image, &whole.dumped, &[4, 34], &[41]);
    let image = open(&[1]).unwrap();
    assert!(image.warnings()[0].contains("not all of its files"), "{:?}", image.warnings());
    assert!(image.holds(31 << 12, 4096) && !image.holds(0, 4096));
    assert!(matches!(open(&[0, 0]), Err(ImageError::Parts(_))));
}
