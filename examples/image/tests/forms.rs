//! Files of every form that is read, written here byte by byte: each page comes back, what was left
//! out is said to be, and a file that is cut anywhere never gives another page.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;

use memory_image::{Extent, Form, GuestPiece, Held, Image, ImageError, Source, Unreadable};

const PAGE: usize = 4096;

/// The page of a frame: packs well, or badly.
fn page(frame: u64) -> Vec<u8> {
    match frame % 3 {
        0 => vec![frame as u8; PAGE],
        1 => (0..PAGE).map(|n| (n / 9) as u8 ^ frame as u8).collect(),
        _ => {
            let mut state = frame | 1;
            let next = |_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (state >> 56) as u8
            };
            (0..PAGE).map(next).collect()
        }
    }
}

/// Numbers in a byte order.
#[derive(Clone, Copy)]
struct Order {
    big: bool,
}

impl Order {
    fn put(self, bytes: &mut [u8], at: usize, size: usize, value: u64) {
        let mut word = value.to_le_bytes()[..size].to_vec();
        if self.big {
            word.reverse();
        }
        bytes[at..at + size].copy_from_slice(&word);
    }
}

fn pack(flags: u32, page: &[u8]) -> Vec<u8> {
    match flags {
        0x1 => {
            let level = flate2::Compression::default();
            let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), level);
            writer.write_all(page).unwrap();
            writer.finish().unwrap()
        }
        0x2 => lzokay::compress::compress(page).unwrap(),
        0x4 => snap::raw::Encoder::new().compress_vec(page).unwrap(),
        0x20 => {
            ruzstd::encoding::compress_to_vec(page, ruzstd::encoding::CompressionLevel::Fastest)
        }
        _ => page.to_vec(),
    }
}

/// A kdump-compressed file, as makedumpfile and QEMU write it.
struct Kdump {
    order: Order,
    /// The machine has 64 bits.
    wide: bool,
    version: u32,
    machine: &'static str,
    /// Which frames the machine has, and which are in the dump.
    present: Vec<u64>,
    dumped: Vec<u64>,
    /// The frames of this file of a split dump.
    split: Option<(u64, u64)>,
    flags: u32,
    vmcoreinfo: &'static [u8],
    notes: Vec<u8>,
}

impl Kdump {
    fn file(&self) -> Vec<u8> {
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

fn kdump(flags: u32, big: bool) -> Kdump {
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

/// Whether `image` has these pages, and says of `left_out` that it was left out.
fn check(image: &Image<'_>, held: &[u64], left_out: &[u64], outside: &[u64]) {
    let mut buffer = vec![0xee; PAGE];
    for frame in held {
        let address = frame * PAGE as u64;
        image.read(address, &mut buffer).unwrap();
        assert_eq!(buffer, page(*frame), "frame {frame}");
        assert!(image.holds(address, PAGE as u64));
        image.read(address + 100, &mut buffer[..50]).unwrap();
        assert_eq!(buffer[..50], page(*frame)[100..150]);
    }
    for (frames, what) in [(left_out, Held::LeftOut), (outside, Held::Outside)] {
        for frame in frames {
            let address = frame * PAGE as u64;
            assert_eq!(image.piece(address).held, what, "frame {frame}");
            let error = image.read(address, &mut buffer).unwrap_err();
            assert!(matches!(error, Unreadable::Missing { held, .. } if held == what), "{error}");
        }
    }
    // What is stored, found by going from one to the next.
    let mut next = image.next_stored(0);
    let mut seen = Vec::new();
    while let Some(at) = next {
        seen.push(at / PAGE as u64);
        next = image.next_stored(at + PAGE as u64);
    }
    assert_eq!(seen, held);
    assert_eq!(image.bytes(), held.len() as u64 * PAGE as u64);
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

/// A file that is cut anywhere gives its pages, or says that they are cut off, or is damaged.
#[test]
fn a_file_that_is_cut_never_gives_another_page() {
    let kdump = kdump(4, false);
    let file = kdump.file();
    let mut buffer = vec![0; PAGE];
    let mut lost = 0;
    for length in (8..file.len()).step_by(997) {
        let Ok(image) = Image::open(&file[..length], 0) else { continue };
        assert_eq!(image.form(), Form::Kdump);
        for frame in &kdump.dumped {
            match image.read(frame * PAGE as u64, &mut buffer) {
                Ok(()) => assert_eq!(buffer, page(*frame)),
                Err(Unreadable::Missing { held, .. }) => {
                    assert_eq!(held, Held::CutOff);
                    assert!(image.warnings()[0].contains("cut off"));
                    lost += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(lost > 100, "{lost}");
    let mut damaged = file.clone();
    // The first page's length: its snappy data begins with it.
    let at = 2 * PAGE + 2 * PAGE * 3 + 24 * kdump.dumped.len();
    damaged[at] ^= 0x7f;
    let image = Image::open(&damaged[..], 0).unwrap();
    let error = image.read(0, &mut buffer).unwrap_err();
    assert!(matches!(error, Unreadable::Damaged { address: 0, .. }), "{error}");
}

/// Ranges of memory with a header each: first and last address.
fn lime(magic: &[u8; 8], ranges: &[(u64, u64)], mut body: impl FnMut(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut file = Vec::new();
    for (first, end) in ranges {
        let memory: Vec<u8> = (*first..*end).flat_map(page).collect();
        file.extend(magic);
        file.extend((first << 12).to_le_bytes());
        file.extend(((end << 12) - 1).to_le_bytes());
        file.extend([0; 8]);
        file.extend(body(&memory));
    }
    file
}

const RANGES: [(u64, u64); 3] = [(1, 40), (256, 300), (1 << 20, (1 << 20) + 3)];

fn frames() -> Vec<u64> {
    RANGES.into_iter().flat_map(|(first, end)| first..end).collect()
}

#[test]
fn lime_and_both_versions_of_avml() {
    let plain = lime(b"EMiL\x01\0\0\0", &RANGES, <[u8]>::to_vec);
    let packed = lime(b"AVML\x02\0\0\0", &RANGES, |memory| {
        let mut frames = snap::write::FrameEncoder::new(Vec::new());
        memory.chunks(PAGE).for_each(|page| frames.write_all(page).unwrap());
        let mut stream = frames.into_inner().unwrap();
        let length = stream.len() as u64;
        stream.extend(length.to_le_bytes());
        stream
    });
    for (file, form) in [(&plain, Form::Lime), (&packed, Form::Avml)] {
        let image = Image::open(&file[..], 0).unwrap();
        assert_eq!((image.form(), image.machine()), (form, None));
        assert!(image.warnings().is_empty());
        check(&image, &frames(), &[], &[0, 40, 255, 1 << 30]);
        // Backwards, so that no frame is the one that was unpacked last.
        let mut buffer = vec![0; PAGE * 2];
        for frame in (256..299).rev() {
            image.read(frame << 12, &mut buffer).unwrap();
            assert_eq!(buffer, [page(frame), page(frame + 1)].concat());
        }
        // Cut: what is there is there, and the rest is missing.
        for length in (0..file.len()).step_by(7919) {
            let Ok(image) = Image::open(&file[..length], 0) else { continue };
            let mut buffer = vec![0; PAGE];
            for frame in frames() {
                if image.read(frame << 12, &mut buffer).is_ok() {
                    assert_eq!(buffer, page(frame));
                }
            }
        }
    }
    assert!(packed.len() < plain.len());
    for magic in [b"EMiL\x02\0\0\0", b"AVML\x01\0\0\0"] {
        let file = lime(magic, &RANGES[..1], <[u8]>::to_vec);
        assert!(matches!(Image::open(&file[..], 0), Err(ImageError::Damaged { .. })));
    }
}

/// A tag of VMware's state files: name, indices, value.
fn tag(file: &mut Vec<u8>, name: &str, indices: &[u32], value: &[u8], block: bool) {
    let size = if block { 63 } else { value.len() as u8 };
    file.push((indices.len() as u8) << 6 | size);
    file.push(name.len() as u8);
    file.extend(name.as_bytes());
    indices.iter().for_each(|index| file.extend(index.to_le_bytes()));
    if block {
        let length = value.len() as u64;
        file.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        file.extend(5_u16.to_le_bytes());
        file.extend([0; 5]);
    }
    file.extend(value);
}

/// Regions: first frame, frame in the file, frames.
fn vmware(regions: &[(u64, u64, u64)], memory: Option<&[u8]>, block: bool) -> Vec<u8> {
    let mut cpu = Vec::new();
    let cr: [u64; 5] = [0x8005_0033, 0, 0, 0x1234_5000, 0x20];
    tag(&mut cpu, "cpu:numVCPUs", &[], &1_u32.to_le_bytes(), false);
    if block {
        tag(&mut cpu, "CR64", &[0], &cr.map(u64::to_le_bytes).concat(), true);
    } else {
        for (n, value) in (0..).zip(cr) {
            tag(&mut cpu, "CR64", &[0, n], &value.to_le_bytes(), false);
        }
    }
    cpu.extend([0; 2]);
    let mut map = Vec::new();
    tag(&mut map, "regionsCount", &[], &(regions.len() as u32).to_le_bytes(), false);
    for (n, (frame, within, count)) in (0..).zip(regions) {
        for (name, value) in
            [("regionPPN", frame), ("regionPageNum", within), ("regionSize", count)]
        {
            tag(&mut map, name, &[n], &(*value as u32).to_le_bytes(), false);
        }
    }
    if let Some(memory) = memory {
        tag(&mut map, "Memory", &[0, 0], memory, true);
    }
    map.extend([0; 2]);
    let mut file = vec![0xd2, 0xbe, 0xd2, 0xbe, 8, 0, 0, 0, 2, 0, 0, 0];
    let data = 12 + 2 * 80;
    for (name, at) in [("cpu", data), ("memory", data + cpu.len())] {
        let mut group = name.as_bytes().to_vec();
        group.resize(64, 0);
        group.extend((at as u64).to_le_bytes());
        group.extend([0; 8]);
        file.extend(group);
    }
    [file, cpu, map].concat()
}

#[test]
fn vmware_with_its_state_beside_it_or_around_it() {
    let frames: Vec<u64> = (0..20).chain(1 << 20..(1 << 20) + 5).collect();
    let memory: Vec<u8> = frames.iter().flat_map(|frame| page(*frame)).collect();
    let regions = [(0, 0, 20), (1 << 20, 20, 5)];
    for block in [false, true] {
        let state = vmware(&regions, None, block);
        let both: [Vec<Box<dyn Source>>; 2] = [
            vec![Box::new(&memory[..]), Box::new(&state[..])],
            vec![Box::new(&state[..]), Box::new(&memory[..])],
        ];
        let around = vmware(&regions, Some(&memory), block);
        let images = both.map(|sources| Image::open_parts(sources, 0).unwrap());
        for image in images.into_iter().chain([Image::open(&around[..], 0).unwrap()]) {
            assert_eq!((image.form(), image.machine()), (Form::Vmware, Some(62)));
            check(&image, &frames, &[], &[20, 1 << 19, (1 << 20) + 5]);
            let cpu = image.notes().x86[0];
            assert_eq!((cpu.cr0, cpu.cr3, cpu.cr4), (0x8005_0033, 0x1234_5000, 0x20));
        }
        let alone = Image::open(&state[..], 0).unwrap_err().to_string();
        assert!(alone.contains("its .vmem must stand beside it"), "{alone}");
        for length in (0..around.len()).step_by(3001) {
            let _ = Image::open(&around[..length], 0);
        }
    }
}

/// An ELF core of Xen: sections, and pages by their frames.
fn xen(frames: &[u64], paravirtual: bool) -> Vec<u8> {
    let names = b"\0.shstrtab\0.xen_pages\0.xen_pfn\0.xen_p2m\0.xen_prstatus\0";
    let place =
        |name: &str| names.windows(name.len()).position(|it| it == name.as_bytes()).unwrap() as u64;
    let mut context = vec![0; 5168];
    for (n, value) in [(0, 0x8005_0033_u64), (3, 0x1234_5000), (4, 0x20)] {
        context[4984 + n * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let table: Vec<u8> = frames
        .iter()
        .flat_map(|frame| if paravirtual { vec![7, *frame] } else { vec![*frame] })
        .flat_map(u64::to_le_bytes)
        .collect();
    let pages: Vec<u8> = frames.iter().flat_map(|frame| page(*frame)).collect();
    let list = if paravirtual { ".xen_p2m" } else { ".xen_pfn" };
    let sections: [(&str, &[u8], u64); 4] = [
        (".shstrtab", names, 0),
        (".xen_prstatus", &context, 0),
        (list, &table, 0),
        (".xen_pages", &pages, PAGE as u64),
    ];
    let order = Order { big: false };
    let mut file = vec![0; 64 + 64 * (sections.len() + 1)];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let fields = [(16, 2, 4), (18, 2, 62), (40, 8, 64), (58, 2, 64), (60, 2, 5), (62, 2, 1)];
    for (at, size, value) in fields {
        order.put(&mut file, at, size, value);
    }
    for (n, (name, bytes, entry)) in sections.into_iter().enumerate() {
        let header = 64 * (n + 2);
        let offset = file.len() as u64;
        for (at, size, value) in
            [(0, 4, place(name)), (24, 8, offset), (32, 8, bytes.len() as u64), (56, 8, entry)]
        {
            order.put(&mut file, header + at, size, value);
        }
        file.extend(bytes);
    }
    file
}

#[test]
fn xens_cores_have_sections() {
    let frames: Vec<u64> = (3..20).chain(500..510).chain([1 << 22]).collect();
    for paravirtual in [false, true] {
        let file = xen(&frames, paravirtual);
        let image = Image::open(&file[..], 0).unwrap();
        assert_eq!((image.form(), image.machine()), (Form::XenCore, Some(62)));
        check(&image, &frames, &[], &[0, 20, 510]);
        assert_eq!((image.notes().cpus, image.notes().x86[0].cr3), (1, 0x1234_5000));
        for length in (0..file.len()).step_by(2003) {
            let _ = Image::open(&file[..length], 0);
        }
    }
}

/// Raw memory in pieces of several files, and the memory of a guest inside it.
#[test]
fn raw_pieces_and_a_guest_inside() {
    let one: Vec<u8> = (0..10).flat_map(page).collect();
    let two: Vec<u8> = (100..110).flat_map(page).collect();
    let piece = |frame: u64, frames: u64, file, within: u64| Extent {
        start: frame << 12,
        bytes: frames << 12,
        file,
        offset: within << 12,
    };
    let sources: Vec<Box<dyn Source>> = vec![Box::new(&one[..]), Box::new(&two[..])];
    let pieces = [piece(0, 10, 0, 0), piece(100, 20, 1, 0)];
    let host = Image::raw(sources, pieces).unwrap();
    assert!(host.warnings()[0].contains("behind the end"), "{:?}", host.warnings());
    check(&host, &(0..10).chain(100..110).collect::<Vec<_>>(), &[], &[10, 99]);
    assert_eq!(host.piece(110 << 12).held, Held::CutOff);
    let guest = |guest: u64, host: u64, frames: u64| GuestPiece {
        guest: guest << 12,
        host: host << 12,
        bytes: frames << 12,
    };
    let guest = Image::of_guest(&host, [guest(5, 102, 3), guest(50, 8, 4)]).unwrap();
    let mut buffer = vec![0; PAGE];
    for (frame, host) in [(5, 102), (7, 104), (50, 8), (51, 9)] {
        guest.read(frame << 12, &mut buffer).unwrap();
        assert_eq!(buffer, page(host));
    }
    assert_eq!(guest.piece(52 << 12).held, Held::LeftOut, "the host's image does not have it");
    assert_eq!(guest.piece(8 << 12).held, Held::Outside);
}
