//! Files of every form that is read, written here byte by byte: each page comes back, what was left
//! out is said to be, and a file that is cut anywhere never gives another page.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cut;
mod elf;
mod kdump;
mod ranges;
mod vmware;

use std::io::Write;

use memory_image::{Held, Image, Unreadable};

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

/// Ranges of frames that a file has.
const RANGES: [(u64, u64); 3] = [(1, 40), (256, 300), (1 << 20, (1 << 20) + 3)];

/// All of them.
fn frames() -> Vec<u64> {
    RANGES.into_iter().flat_map(|(first, end)| first..end).collect()
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
