//! Words by value: bytes, callbacks, and words in place.

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::format::Output;
use pgtable::memory::{DirectMap, LoadWith, MemoryError, ReadMemory};
use pgtable::walk::Walker;
use pgtable::{Access, Cause, Gpa, Gva};
use pgtable_x86::LongMode;

use crate::{LONG, ROOT, TREE};

/// Bytes, a callback, and words in place give the same walks.
#[test]
fn words_by_value() {
    let mut bytes = vec![0_u8; 0x6000];
    for (at, word) in TREE {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let words: Vec<AtomicU64> = bytes
        .chunks_exact(8)
        .map(|word| AtomicU64::new(u64::from_ne_bytes(word.try_into().unwrap())))
        .collect();
    let direct = DirectMap::new(&words, Gpa::new(0));
    let callback = LoadWith(|at: Gpa| {
        let word = words.get(at.get() as usize / 8).ok_or(MemoryError::outside(at, 1))?;
        Ok(word.load(Ordering::Relaxed))
    });
    fn check<M: ReadMemory<Output<LongMode>>>(name: &str, memory: M) {
        let walker = Walker::new(LONG, &memory, ROOT);
        let found = walker.translate(Gva::new(0x123), Access::WRITE).unwrap();
        assert_eq!(found.output, Gpa::new(0x5123), "{name}");
        let fault = walker.translate(Gva::new(1 << 30), Access::READ).unwrap_err();
        assert_eq!(fault.cause, Cause::NotPresent, "{name}");
        assert!(walker.access(Gva::new(0x123), Access::WRITE).is_ok(), "{name}");
        let leaves: Vec<_> = walker.iter(Gva::new(0), 1 << 39).unwrap().collect();
        assert_eq!(leaves.len(), 1, "{name}");
        let mut outputs = [None; 3];
        let inputs = [Gva::new(0), Gva::new(0xff8), Gva::new(0x1000)];
        assert_eq!(walker.translate_batch(&inputs, Access::READ, &mut outputs), 2, "{name}");
        assert!(memory.load(Gpa::new(0x6000)).is_err() && memory.load(Gpa::new(u64::MAX)).is_err());
        assert_eq!(memory.load(Gpa::new(0x4007)), memory.load(Gpa::new(0x4000)), "{name}");
    }
    // SAFETY: the tree leads nowhere outside the block, and only addresses of it are asked for
    // below.
    let trusted = unsafe { direct.trusted() };
    let walker = Walker::new(LONG, trusted, ROOT);
    assert_eq!(walker.translate(Gva::new(0x123), Access::READ).unwrap().output, Gpa::new(0x5123));
    check("bytes", &bytes[..]);
    check("callback", callback);
    check("boxed", Box::new(LoadWith(|at: Gpa| direct.load(at))));
    check("direct", direct);
    let after = words[0x4000 / 8].load(Ordering::Relaxed);
    assert_eq!(u64::from_le(after), 0x5067, "recorded in place");
}
