//! Pages of kdump-compressed files, unpacked.

/// How a page is stored (crash `diskdump.h`, makedumpfile `diskdump_mod.h`).
const ZLIB: u32 = 0x1;
const LZO: u32 = 0x2;
const SNAPPY: u32 = 0x4;
const ZSTD: u32 = 0x20;

/// Unpacks `stored` into all of `page`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn unpack(flags: u32, stored: &[u8], page: &mut [u8]) -> Result<(), String> {
    let length = match flags & (ZLIB | LZO | SNAPPY | ZSTD) {
        0 if stored.len() == page.len() => {
            page.copy_from_slice(stored);
            page.len()
        }
        0 => return Err(format!("a page that is not packed has {} bytes", stored.len())),
        ZLIB => {
            let mut inflate = flate2::Decompress::new(true);
            let end = inflate.decompress(stored, page, flate2::FlushDecompress::Finish);
            match end.map_err(|error| format!("zlib: {error}"))? {
                flate2::Status::StreamEnd => inflate.total_out() as usize,
                _ => return Err("zlib: the page is cut off, or too long".to_owned()),
            }
        }
        LZO => lzokay::decompress::decompress(stored, page)
            .map_err(|error| format!("lzo: {error:?}"))?,
        SNAPPY => snap::raw::Decoder::new()
            .decompress(stored, page)
            .map_err(|error| format!("snappy: {error}"))?,
        ZSTD => ruzstd::decoding::FrameDecoder::new()
            .decode_all(stored, page)
            .map_err(|error| format!("zstd: {error}"))?,
        several => return Err(format!("the page is packed in two ways at once ({several:#x})")),
    };
    if length == page.len() {
        Ok(())
    } else {
        Err(format!("the page has {length} bytes unpacked, not {}", page.len()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// A page, packed.
    pub(crate) fn pack(flags: u32, page: &[u8]) -> Vec<u8> {
        match flags {
            ZLIB => {
                let mut writer =
                    flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                writer.write_all(page).unwrap();
                writer.finish().unwrap()
            }
            LZO => lzokay::compress::compress(page).unwrap(),
            SNAPPY => snap::raw::Encoder::new().compress_vec(page).unwrap(),
            ZSTD => {
                ruzstd::encoding::compress_to_vec(page, ruzstd::encoding::CompressionLevel::Fastest)
            }
            _ => page.to_vec(),
        }
    }

    #[test]
    fn pages_come_back_from_every_codec() {
        let page: Vec<u8> = (0..4096).map(|n| (n / 7 * n % 251) as u8).collect();
        let zeros = vec![0; 4096];
        for flags in [0, ZLIB, LZO, SNAPPY, ZSTD] {
            for page in [&page, &zeros] {
                let packed = pack(flags, page);
                let mut out = vec![0xee; 4096];
                assert_eq!(unpack(flags, &packed, &mut out), Ok(()), "{flags}");
                assert_eq!(&out, page, "{flags}");
                // Damaged in any byte, or cut: an error or another page, never a panic.
                for at in 0..packed.len() {
                    let mut bad = packed.clone();
                    bad[at] ^= 0xff;
                    let _ = unpack(flags, &bad, &mut out);
                    assert!(
                        at % 64 != 0 || unpack(flags, &packed[..at], &mut out).is_err(),
                        "{flags} {at}"
                    );
                }
                assert!(unpack(flags, &packed, &mut vec![0; 8192]).is_err(), "too short: {flags}");
                assert!(unpack(flags, &packed, &mut vec![0; 2048]).is_err(), "too long: {flags}");
            }
        }
        assert!(unpack(ZLIB | LZO, &[0; 9], &mut [0; 4096]).is_err());
    }
}
