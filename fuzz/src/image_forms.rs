//! What `memory-image` makes of arbitrary files of each form.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use memory_image::{Held, Image, Source, Unreadable};

/// How many pieces of memory are looked at.
const MOST_PIECES: usize = 64;
/// The most bytes that are read of each.
const MOST_BYTES: u64 = 1 << 13;

/// # Oracles
/// Memory that is said to be stored reads, or is damaged or cut off; other memory does not read,
/// and the error says what was said before. It reads the same as a whole, in halves, and again.
/// Going from one stored address to the next visits what is stored and nothing else. Flattened, in
/// any pieces, the file is the same image.
fn check(file: &[u8]) {
    let Ok(image) = Image::open(file, 0) else { return };
    look(&image);
    if file.len() < 1 << 16 {
        let flat = flattened(file, 1 + file.len() / 3);
        let Ok(other) = Image::open(&flat[..], 0) else { panic!("flattened it is refused") };
        if other.form() == image.form() {
            assert_eq!((other.bytes(), other.machine()), (image.bytes(), image.machine()));
            same(&image, &other);
        }
    }
}

fn look(image: &Image<'_>) {
    let mut next = 0;
    for _ in 0..MOST_PIECES {
        let Some(start) = image.next_stored(next) else { break };
        assert!(start >= next && image.holds(start, 1), "{start:#x}");
        if start > next {
            assert!(image.piece(start - 1).held != Held::Stored, "{start:#x}");
        }
        let piece = image.piece(start);
        assert!(piece.held == Held::Stored && piece.bytes > 0);
        let bytes = piece.bytes.min(MOST_BYTES) as usize;
        let (mut whole, mut parts) = (vec![0x11; bytes], vec![0x22; bytes]);
        let (low, high) = parts.split_at_mut(bytes / 2);
        let one = image.read(start, &mut whole);
        let two = image.read(start, low).and_then(|()| image.read(start + bytes as u64 / 2, high));
        assert!(one.is_ok() == two.is_ok() || one.is_err(), "{one:?} {two:?}");
        match one {
            Ok(()) => assert_eq!(whole, parts, "{start:#x}"),
            Err(Unreadable::Missing { held, .. }) => assert_eq!(held, Held::CutOff),
            Err(Unreadable::Damaged { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        match start.checked_add(piece.bytes) {
            Some(end) => next = end,
            None => break,
        }
    }
    for address in [next, u64::MAX - 8, 1 << 40] {
        let piece = image.piece(address);
        assert!(piece.bytes > 0);
        if piece.held != Held::Stored {
            let error = image.read(address, &mut [0; 1]).expect_err("it is not stored");
            assert!(
                matches!(error, Unreadable::Missing { held, .. } if held == piece.held),
                "{error}"
            );
        }
    }
}

/// Both have the same memory.
fn same(one: &Image<'_>, two: &Image<'_>) {
    let mut next = 0;
    for _ in 0..MOST_PIECES {
        assert_eq!(one.next_stored(next), two.next_stored(next), "{next:#x}");
        let Some(start) = one.next_stored(next) else { return };
        let bytes = one.piece(start).bytes.min(MOST_BYTES) as usize;
        let (mut first, mut second) = (vec![0; bytes], vec![0; bytes]);
        let (a, b) = (one.read(start, &mut first), two.read(start, &mut second));
        assert_eq!((a.is_ok(), &first), (b.is_ok(), &second), "{start:#x}");
        let Some(end) = start.checked_add(one.piece(start).bytes) else { return };
        next = end;
    }
}

/// The file in pieces, the last one first.
fn flattened(file: &[u8], length: usize) -> Vec<u8> {
    let mut flat = b"makedumpfile\0\0\0\0".to_vec();
    flat.extend([1_u64.to_be_bytes(), 1_u64.to_be_bytes()].concat());
    flat.resize(4096, 0);
    let pieces: Vec<_> = file.chunks(length).enumerate().collect();
    for (n, piece) in pieces.into_iter().rev() {
        flat.extend(((n * length) as u64).to_be_bytes());
        flat.extend((piece.len() as u64).to_be_bytes());
        flat.extend(piece);
    }
    flat.extend([0xff; 16]);
    flat
}

/// The file, beginning with `magic`, whatever it began with.
fn beginning_with(magic: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = data.to_vec();
    let length = file.len().min(magic.len());
    file[..length].copy_from_slice(&magic[..length]);
    file
}

/// An arbitrary file as one of kdump's.
pub fn image_kdump(data: &[u8]) {
    check(&beginning_with(b"KDUMP   ", data));
}

/// An arbitrary file as one of LiME's or AVML's, by its first byte.
pub fn image_lime(data: &[u8]) {
    let magic = if data.first() == Some(&b'A') { b"AVML\x02\0\0\0" } else { b"EMiL\x01\0\0\0" };
    check(&beginning_with(magic, data));
}

/// An arbitrary file as a VMware state file; the same as one with a `.vmem` of 64 KiB.
pub fn image_vmware(data: &[u8]) {
    let state = beginning_with(&[0xd2, 0xbe, 0xd2, 0xbe], data);
    check(&state);
    let memory = vec![0x5a; 1 << 16];
    let sources: Vec<Box<dyn Source>> = vec![Box::new(&state[..]), Box::new(&memory[..])];
    if let Ok(image) = Image::open_parts(sources, 0) {
        look(&image);
    }
}

/// An arbitrary file as an ELF core, of Xen's kind if it has sections.
pub fn image_elf(data: &[u8]) {
    check(&beginning_with(b"\x7fELF", data));
}

/// An arbitrary file as a flattened one.
pub fn image_flattened(data: &[u8]) {
    let mut head = b"makedumpfile\0\0\0\0".to_vec();
    head.extend([1_u64.to_be_bytes(), 1_u64.to_be_bytes()].concat());
    let file = beginning_with(&head, data);
    if let Ok(image) = Image::open(&file[..], 0) {
        look(&image);
    }
}

/// Arbitrary answers to what is asked of a machine that QEMU runs, over pipes and over a socket.
///
/// # Oracles
/// Whatever is answered, nothing is asked but what only reads, a bounded number of times; memory is
/// copied into the file that was given and no other; a file that was given and taken is given back.
pub fn image_qmp(data: &[u8]) {
    let mut sent = Vec::new();
    if let Ok(image) = Image::open_qmp(data, &mut sent) {
        read_some(&image);
    }
    only_reads(sent, false);

    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    // A socket keeps that much.
    theirs.write_all(&data[..data.len().min(1 << 16)]).expect("room");
    theirs.shutdown(Shutdown::Write).expect("a socket");
    if let Ok(image) = Image::open_qmp_unix(&ours) {
        read_some(&image);
    }
    drop(ours);
    let mut sent = Vec::new();
    theirs.read_to_end(&mut sent).expect("a socket");
    only_reads(sent, true);
}

fn read_some(image: &Image<'_>) {
    let mut next = 0;
    for _ in 0..8 {
        let Some(start) = image.next_stored(next) else { break };
        let bytes = image.piece(start).bytes;
        let mut buffer = vec![0; bytes.min(64) as usize];
        // What is no answer is an error.
        let _ = image.read(start, &mut buffer);
        let Some(end) = start.checked_add(bytes) else { break };
        next = end;
    }
}

fn only_reads(sent: Vec<u8>, shared: bool) {
    const READ_ONLY: [&str; 5] = [
        "\"execute\":\"qmp_capabilities\"",
        "\"execute\":\"query-target\"",
        "\"execute\":\"query-status\"",
        "\"command-line\":\"info ",
        "\"command-line\":\"xp /",
    ];
    let sent = String::from_utf8(sent).expect("text");
    assert!(sent.lines().count() <= 20, "{sent}");
    let mut given = 0;
    for line in sent.lines() {
        let is = |command: &str| shared && line.contains(&format!("\"execute\":\"{command}\""));
        let copies = is("pmemsave") && line.contains("\"filename\":\"/proc/self/fd/");
        given += i32::from(is("add-fd")) - i32::from(is("remove-fd"));
        let given_or_taken = is("add-fd") || is("remove-fd");
        assert!(
            copies || given_or_taken || READ_ONLY.iter().any(|what| line.contains(what)),
            "{line}"
        );
        assert!((0..=1).contains(&given) && (!copies || given == 1), "{sent}");
    }
}
