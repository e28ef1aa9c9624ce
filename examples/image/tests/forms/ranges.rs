//! Ranges of memory with a header each (LiME, AVML), and raw pieces.

use std::io::Write;

use memory_image::{Extent, Form, GuestPiece, Held, Image, ImageError, Source, Unreadable};

use crate::{PAGE, RANGES, check, frames, page};

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
    // Behind the header and the stream's name: a frame's type and length, its checksum.
    for at in 32 + 10 + 4..32 + 10 + 8 {
        let mut damaged = packed.clone();
        damaged[at] ^= 1;
        let image = Image::open(&damaged[..], 0).unwrap();
        let first = RANGES[0].0 << 12;
        let said = image.read(first, &mut [0; 8]);
        let why = |said: &Unreadable| said.to_string().contains("checksum");
        assert!(said.as_ref().is_err_and(why), "{said:?}");
        assert!(image.read(RANGES[1].0 << 12, &mut [0; 8]).is_ok());
    }
    for magic in [b"EMiL\x02\0\0\0", b"AVML\x01\0\0\0"] {
        let file = lime(magic, &RANGES[..1], <[u8]>::to_vec);
        assert!(matches!(Image::open(&file[..], 0), Err(ImageError::Damaged { .. })));
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
