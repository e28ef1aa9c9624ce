//! A hashed page table, named as in SDR1, and how its entries are laid out: they tell it.
//!
//! Before ISA 3.0 an entry has the size of its segment (B) in bits 0:1 of its first doubleword,
//! since then in bits 4:5 of its second (Power ISA v2.07B and v3.0B Book III, "Page Table Entry").
//! So each valid entry of a segment of 1 TiB, in which Linux keeps nearly all, says which it is;
//! one of a segment of 256 MiB says nothing, and is the same in both.

use memory_image::Image;
use pgtable::Gpa;
use pgtable_ppc64::hash::{HptOrder, HpteR3, HpteV, Layout};

use super::hash::{HashTable, HashView};
use super::linux::LinuxLayout;
use super::root::{Arch, Infos, Located, Request, Root, RootChoice};
use super::root_error::{RootError, Several};

/// B of a segment of 1 TiB.
const B_1T: u8 = 1;
/// The most bytes of a table that are looked at.
const MOST: u64 = 16 << 20;
/// Read at a time.
const CHUNK: u64 = 1 << 16;
/// So many entries are enough.
const ENOUGH: usize = 256;

/// The table that `request` names.
///
/// # Errors
/// [`RootError`].
pub(crate) fn locate(
    image: &Image<'_>,
    request: &Request,
    infos: Infos<'_>,
) -> Result<Located, RootError> {
    let Some(RootChoice::Address(sdr1)) = request.root else {
        return Err(RootError::NoRoot("HTABORG and HTABSIZE, as in SDR1".to_owned()));
    };
    let bad = |why| RootError::Bad { root: sdr1, why };
    let order = HptOrder::new(u64::from(HptOrder::MIN.get()) + (sdr1 & 0x1f))
        .ok_or(bad("HTABSIZE is at most 28"))?;
    let base = sdr1 & !0x3_ffff & ((1 << 60) - 1);
    if base & (order.bytes() - 1) != 0 {
        return Err(bad("HTABORG is a multiple of the table's size"));
    }
    let told = infos.chosen.and_then(LinuxLayout::of_kernel);
    let layout = request.linux_layout.or(told).unwrap_or_default();
    let view = HashView { slb: request.slb.clone(), context: request.pid, layout };
    let entries = match request.layout {
        Some(layout) => Some(layout),
        None => layout_told(image, base, order.bytes())?,
    };
    let layout = entries.unwrap_or_default();
    let table = HashTable { base: Gpa::new(base), order, layout };
    let mut located = Located::new(Arch::Ppc64Hash, Root::Hash(table, view), "--root");
    if (request.layout, layout) == (None, Layout::V2) {
        let remark = "its entries are laid out as before ISA 3.0 (--hpte-layout isa2)";
        located.remarks.push(remark.to_owned());
    }
    if request.linux_layout.is_none() && told.is_none() && request.slb.is_none() {
        let remark =
            "addresses are those of a Linux of 64-KiB pages, 5.2 or later (--linux-layout)";
        located.remarks.push(remark.to_owned());
    }
    Ok(located)
}

/// The layout of the entries in the table of `bytes` bytes at `base`; `None` if none of them tells.
///
/// # Errors
/// [`RootError::Several`] if some say one thing and some another.
fn layout_told(image: &Image<'_>, base: u64, bytes: u64) -> Result<Option<Layout>, RootError> {
    let end = base.saturating_add(bytes);
    let (mut at, mut read, mut old, mut new) = (base, 0, 0, 0);
    while let Some(stored) = image.next_data(at).filter(|stored| *stored < end) {
        // What is there of an entry in part says nothing.
        let start = stored.next_multiple_of(16);
        let length = image.piece(start).bytes.min(CHUNK).min(end.saturating_sub(start)) / 16 * 16;
        let mut chunk = vec![0; length as usize];
        if length > 0 && image.read(start, &mut chunk).is_ok() {
            for entry in chunk.chunks_exact(16) {
                match layout_of(entry) {
                    Some(Layout::V2) => old += 1,
                    Some(Layout::V3) => new += 1,
                    None => {}
                }
            }
        }
        read += length.max(16);
        if read >= MOST || old + new >= ENOUGH {
            break;
        }
        let Some(next) = start.checked_add(length.max(16)) else { break };
        at = next;
    }
    match (old, new) {
        (0, 0) => Ok(None),
        (_, 0) => Ok(Some(Layout::V2)),
        (0, _) => Ok(Some(Layout::V3)),
        _ => {
            let candidates = [("isa3", new), ("isa2", old)]
                .map(|(name, count)| format!("--hpte-layout {name} (as {count} entries say)"));
            let what = "layouts of hashed entries";
            Err(RootError::Several(Several { what, candidates: candidates.into() }))
        }
    }
}

/// The layout that an entry, 16 bytes, tells.
fn layout_of(entry: &[u8]) -> Option<Layout> {
    let (first, rest) = entry.split_first_chunk()?;
    let v = HpteV::from_bits(u64::from_be_bytes(*first));
    let r = HpteR3::from_bits(u64::from_be_bytes(*rest.first_chunk()?));
    match (v.v(), v.b(), r.b()) {
        (true, B_1T, _) => Some(Layout::V2),
        (true, 0, B_1T) => Some(Layout::V3),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use memory_image::Extent;

    #[test]
    fn entries_tell_their_layout() {
        const V: u64 = 1;
        let (old, new) = ((1 << 62 | V, 0x1190), (V | 0x1234 << 7, 1 << 58 | 0x1190));
        let small = (V | 0x1234 << 7, 0x1190);
        let invalid = (1 << 62, 1 << 58);
        type Entries<'e> = &'e [(u64, u64)];
        let rows: [(Entries<'_>, Result<Option<Layout>, &str>); 6] = [
            (&[], Ok(None)),
            (&[small, invalid], Ok(None)),
            (&[small, old, old], Ok(Some(Layout::V2))),
            (&[new, invalid, small], Ok(Some(Layout::V3))),
            (&[old, new, new], Err("give --hpte-layout isa3 (as 2 entries say), or --hpte-layout")),
            (&[(1 << 62 | V, 1 << 58)], Ok(Some(Layout::V2))),
        ];
        for (entries, want) in rows {
            let words = entries.iter().flat_map(|(v, r)| [v.to_be_bytes(), r.to_be_bytes()]);
            let mut bytes = words.collect::<Vec<_>>().concat();
            bytes.resize(1 << 18, 0);
            // Not aligned, in two pieces, with a hole before the last.
            let piece = |start, bytes, offset| Extent { start, bytes, file: 0, offset };
            let pieces =
                [piece(0x4_0000, 24, 0), piece(0x4_0018, 0x1_0000, 24), piece(0x6_0008, 9, 99)];
            let image = Image::raw(vec![Box::new(&bytes[..])], pieces).unwrap();
            match (layout_told(&image, 0x4_0000, 1 << 18), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{entries:x?}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, want) => panic!("{entries:x?}: {found:?}, not {want:?}"),
            }
        }
    }
}
