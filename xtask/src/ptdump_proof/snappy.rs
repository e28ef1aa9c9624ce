//! A kdump-compressed file whose pages are packed with snappy. No program of Debian's writes one:
//! its makedumpfile and its QEMU are built without. So the pages of a file that makedumpfile did
//! not pack are packed here; crash and drgn, which have Google's own library, are the witnesses.
//!
//! Source: makedumpfile `IMPLEMENTATION` and `diskdump_mod.h` (`disk_dump_header`, `page_desc`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _, copy};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Where the header of a 64-bit machine has the kinds of packing, and what follows: the bytes of a
/// block, blocks of the sub-header, and of both bitmaps.
const STATUS: usize = 424;
/// `DUMP_DH_COMPRESSED_SNAPPY`.
const SNAPPY: u32 = 4;
/// Bytes of a page's descriptor: where it stands, its bytes, how it is packed, flags of the page.
const DESCRIPTOR: usize = 24;

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).and_then(|it| it.first_chunk());
    Ok(u32::from_le_bytes(*word.context("a word of the file's header")?))
}

/// Packs the pages of `plain`; returns how many are packed, and how many there are.
pub fn pack(plain: &Path, packed: &Path) -> Result<(usize, usize)> {
    let source = File::open(plain)?;
    let mut header = vec![0; 4096];
    source.read_exact_at(&mut header, 0)?;
    let fields = [4, 8, 12].map(|field| u32_at(&header, STATUS + field));
    let [block, sub_header, bitmaps] = fields;
    let (block, sub_header, bitmaps) = (block? as usize, sub_header? as usize, bitmaps? as usize);
    ensure!(header.starts_with(b"KDUMP   ") && block == 4096, "a file of makedumpfile's");
    ensure!(u32_at(&header, STATUS)? & 0x27 == 0, "it is packed already");

    // The second bitmap says which pages are in the file.
    let start = (1 + sub_header) * block;
    let half = bitmaps * block / 2;
    let mut bitmap = vec![0; half];
    source.read_exact_at(&mut bitmap, (start + half) as u64)?;
    let pages: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();

    let mut target = BufWriter::new(File::create(packed)?);
    let descriptors = start + bitmaps * block;
    copy(&mut (&source).take(descriptors as u64), &mut target)?;
    let mut place = (descriptors + pages * DESCRIPTOR) as u64;
    let mut all = vec![0; pages * DESCRIPTOR];
    BufReader::new(&source).read_exact(&mut all)?;
    target.seek(SeekFrom::Start(place))?;
    // Pages of zeros are stored once.
    let mut known = HashMap::new();
    let (mut page, mut count, mut encoder) = (vec![0; block], 0, snap::raw::Encoder::new());
    for descriptor in all.chunks_exact_mut(DESCRIPTOR) {
        let stands = *descriptor.first_chunk().context("a descriptor")?;
        let (at, bytes, flags) = match known.get(&stands) {
            Some(stored) => *stored,
            None => {
                source.read_exact_at(&mut page, u64::from_le_bytes(stands))?;
                let small = encoder.compress_vec(&page)?;
                // What would not become smaller stays as it is.
                let (bytes, flags) =
                    if small.len() < block { (&small, SNAPPY) } else { (&page, 0) };
                target.write_all(bytes)?;
                let stored = (place, bytes.len() as u32, flags);
                place += bytes.len() as u64;
                known.insert(stands, stored);
                stored
            }
        };
        count += usize::from(flags == SNAPPY);
        descriptor[..8].copy_from_slice(&at.to_le_bytes());
        descriptor[8..12].copy_from_slice(&bytes.to_le_bytes());
        descriptor[12..16].copy_from_slice(&flags.to_le_bytes());
    }
    target.seek(SeekFrom::Start(descriptors as u64))?;
    target.write_all(&all)?;
    target.seek(SeekFrom::Start(STATUS as u64))?;
    target.write_all(&SNAPPY.to_le_bytes())?;
    target.flush()?;
    Ok((count, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pages, and one that is stored for two frames.
    #[test]
    fn pages_are_packed_in_place() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (plain, packed) = (folder.path().join("plain"), folder.path().join("packed"));
        let mut random = fastrand::Rng::with_seed(1);
        let noise = std::iter::repeat_with(|| random.u8(..)).take(4096).collect();
        let stored = [vec![0x5a; 4096], noise, vec![0; 4096]];
        let mut file = vec![0; 4 * 4096];
        file[..8].copy_from_slice(b"KDUMP   ");
        for (n, word) in [0_u32, 4096, 1, 2].into_iter().enumerate() {
            file[STATUS + 4 * n..][..4].copy_from_slice(&word.to_le_bytes());
        }
        file[3 * 4096] = 0b1111;
        let data = file.len() + 4 * DESCRIPTOR;
        for page in [0, 1, 2, 2] {
            file.extend((data as u64 + page * 4096).to_le_bytes());
            file.extend([4096, 0, 0, 0].map(u32::to_le_bytes).concat());
        }
        file.extend(stored.concat());
        std::fs::write(&plain, &file)?;
        assert_eq!(pack(&plain, &packed)?, (3, 4));
        let out = std::fs::read(&packed)?;
        assert_eq!(u32_at(&out, STATUS)?, SNAPPY);
        assert_eq!(out[STATUS + 4..4 * 4096], file[STATUS + 4..4 * 4096]);
        for (n, page) in [0, 1, 2, 2].into_iter().enumerate() {
            let descriptor = &out[4 * 4096 + n * DESCRIPTOR..];
            let at = u32_at(descriptor, 0)? as usize;
            let bytes = &out[at..at + u32_at(descriptor, 8)? as usize];
            let bytes = match u32_at(descriptor, 12)? {
                SNAPPY => snap::raw::Decoder::new().decompress_vec(bytes)?,
                _ => bytes.to_vec(),
            };
            assert_eq!(bytes, stored[page], "{n}");
        }
        assert!(pack(&packed, &plain).is_err(), "packed already");
        Ok(())
    }
}
