//! A migration stream from another host, which may be any bytes.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use pgtable::Hpa;
use pgtable::memory::DirectMap;
use pgtable_ppc64::hash::{
    Hpt, HptOrder, Layout, Loaded, Pass, StreamError, StreamReader, chunks, load,
};

/// Of a table of 2^18 bytes.
const ENTRIES: u64 = 1 << 14;
/// Who changes an entry, and that it was changed: the sender's own, and nothing that arrives.
const OWN: u64 = 0x60;
/// As in `hpt_hcalls`.
const KEPT: (u64, u64) = (3 << 62 | ((1 << 52) - 1), !(3 << 58));

type Entries = BTreeMap<u64, (u64, u64)>;

/// A stream, into a table of either layout.
///
/// # Oracles
/// A decoder that goes over the bytes one field after the other: what is stored, what is emptied,
/// and where it stops and why. Then decode ∘ encode: what the table is read as, by a buffer of any
/// size, loads into another table of either layout as the same entries; and nothing has changed
/// since.
pub fn htab_stream(data: &[u8]) {
    let [flags, room, stream @ ..] = data else { return };
    let layout = |bit: u8| if flags & bit == 0 { Layout::V2 } else { Layout::V3 };
    let memory = || (0..2 * ENTRIES).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let table = |words, layout| {
        Hpt::new(DirectMap::new(words, Hpa::new(0)), Hpa::new(0), HptOrder::MIN, layout)
    };

    let (here, there) = (memory(), memory());
    let here = table(&here, layout(1)).expect("a table of the smallest size");
    let there = table(&there, layout(2)).expect("a table of the smallest size");
    let mut entries = Entries::new();
    let expected = decode(stream, layout(1), &mut entries);
    assert_eq!(load(&here, stream), expected);
    assert_eq!(contents(&here), entries);

    // Chunks are the stream, as far as it is one.
    let whole = chunks(stream).map_while(Result::ok).map(|chunk| chunk.bytes.len()).sum::<usize>();
    let cut: Vec<u8> = chunks(stream)
        .map_while(Result::ok)
        .flat_map(|chunk| chunk.bytes.iter().copied())
        .collect();
    assert_eq!(cut, stream[..whole]);

    // Whatever its buffer has room for, whole chunks at a time.
    let mut reader = StreamReader::new(0, Pass::First, flags & 4 != 0);
    let mut sent = Vec::new();
    let mut buffer = vec![0; 24 + usize::from(*room) * 16];
    while reader.pass() == Pass::First {
        let read = reader.read(&here, &mut buffer).expect("memory is there");
        assert!(chunks(&buffer[..read]).all(|chunk| chunk.is_ok()));
        sent.extend_from_slice(&buffer[..read]);
    }
    let bolted = |v: u64| flags & 4 == 0 || v & 0x10 != 0;
    let here_now: Entries = contents(&here).into_iter().filter(|(_, (v, _))| bolted(*v)).collect();
    let (mut again, mut sender) = (Entries::new(), Entries::new());
    let loaded = decode(&sent, layout(2), &mut again);
    assert_eq!(load(&there, &sent), loaded);
    assert_eq!(contents(&there), again);
    // It is the same unless the receiver has no room for an entry.
    assert!(decode(&sent, layout(1), &mut sender).is_ok());
    assert_eq!(sender, here_now);
    if loaded.is_ok() {
        assert_eq!(again, here_now);
    }
    // Entries that do not count are as good as unchanged ones, once they were told of as empty.
    assert_eq!(reader.read(&here, &mut buffer), Ok(0));
}

/// The stream's meaning for a table of that layout, field by field; what comes before an error
/// counts.
fn decode(stream: &[u8], layout: Layout, entries: &mut Entries) -> Result<Loaded, StreamError> {
    let mut loaded = Loaded::default();
    let mut at = 0;
    while at < stream.len() {
        let truncated = StreamError::Truncated { at };
        let header = stream.get(at..at + 8).ok_or(truncated)?;
        let index = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let valid = u64::from(u16::from_ne_bytes([header[4], header[5]]));
        let invalid = u64::from(u16::from_ne_bytes([header[6], header[7]]));
        let body = stream.get(at + 8..at + 8 + valid as usize * 16).ok_or(truncated)?;
        let first = u64::from(index);
        if first >= ENTRIES || first + valid + invalid > ENTRIES {
            return Err(StreamError::Beyond { index });
        }
        for (ptex, entry) in (first..).zip(body.chunks_exact(16)) {
            let half =
                |at: usize| u64::from_be_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            let (v, r) = (half(0), half(8));
            let held = layout == Layout::V2 || (v & !KEPT.0, r & !KEPT.1) == (0, 0);
            if v & 1 == 0 || v >> 63 != 0 || !has_size(v, r) || !held {
                return Err(StreamError::Invalid { ptex });
            }
            entries.insert(ptex, (v & !OWN, r));
            loaded.stored += 1;
        }
        for ptex in first + valid..first + valid + invalid {
            entries.remove(&ptex);
            loaded.emptied += 1;
        }
        at += 8 + body.len();
    }
    Ok(loaded)
}

/// Whether L and LP name a page size in a segment (Power ISA v2.07 Book III-S, figure 31, as POWER8
/// and POWER9 implement it).
fn has_size(v: u64, r: u64) -> bool {
    let lp = r >> 12 & 0xff;
    matches!(
        (v >> 2 & 1, lp & 15, lp >> 4),
        (0, ..) | (_, 0, 0) | (_, 8, 0 | 3) | (_, 1 | 7, _) | (_, 3, 0)
    )
}

fn contents(hpt: &Hpt<Hpa, DirectMap<'_, Hpa>>) -> Entries {
    hpt.entries(0)
        .map(|(ptex, hpte)| (ptex, (hpte.v.visible().into_bits(), hpte.r.into_bits())))
        .collect()
}
