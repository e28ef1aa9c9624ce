//! The last words of a kernel that panicked before it had a console: they stand in its log, which
//! is in memory.

use memchr::memmem;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// What a dying kernel says (Linux `kernel/panic.c`, `lib/bug.c`, `arch/*/kernel/traps.c`).
const WORDS: [&[u8]; 3] = [b"Kernel panic - not syncing", b"kernel BUG at", b"Oops: "];
/// The most that is told.
const LONGEST: usize = 160;

/// Looks for last words in `bytes` bytes of memory from `start` on: where the kernel's data is, as
/// all of memory would take long.
pub fn last_words(memory: &GuestMemoryMmap, start: u64, bytes: usize) -> Option<String> {
    let mut data = vec![0; bytes];
    memory.read_slice(&mut data, GuestAddress(start)).ok()?;
    // The words themselves are in the kernel's read-only data too, as formats: those go on with a
    // directive.
    for words in WORDS {
        for at in memmem::find_iter(&data, words) {
            let text =
                data[at..].iter().take(LONGEST).take_while(|byte| (b' '..=b'~').contains(*byte));
            let text: String = text.map(|byte| char::from(*byte)).collect();
            if text.len() > words.len() && !text.contains('%') {
                return Some(text);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_from_its_format() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        memory.write_slice(b"Kernel panic - not syncing: %s\0", GuestAddress(0x100)).unwrap();
        assert_eq!(last_words(&memory, 0, 0x10000), None);
        memory
            .write_slice(b"Kernel panic - not syncing: No init found.\x01", GuestAddress(0x900))
            .unwrap();
        let words = last_words(&memory, 0, 0x10000);
        assert_eq!(words.as_deref(), Some("Kernel panic - not syncing: No init found."));
        assert_eq!(last_words(&memory, 0x8000, 0x10000), None, "beyond the end there is nothing");
    }
}
