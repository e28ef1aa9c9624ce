//! What a page's attributes say, in the words of its architecture.

use arch_ppc64::radix::{Att, PageAttributes as RadixAttributes, ProcessScoped};
use arch_x86::{Ept, EptAttributes, LongMode, MemoryType, PageAttributes};
use pgtable::Format;

/// A format whose attributes can be told in words.
pub trait Describe: Format {
    /// Bytes of the frames that an operating system cuts tables from: 64 KiB on POWER, a page
    /// elsewhere.
    const FRAME: u64;

    /// What `attributes` say besides who may do what, words with spaces between.
    fn describe(attributes: &Self::Attributes) -> String;
}

/// The words whose condition holds, and whatever else there is to say.
fn words(words: &[(bool, &str)], others: impl IntoIterator<Item = String>) -> String {
    let words = words.iter().filter(|(said, _)| *said).map(|(_, word)| (*word).to_owned());
    words.chain(others).collect::<Vec<_>>().join(" ")
}

/// `name=value` unless the value is zero.
fn field(name: &str, value: u16) -> Option<String> {
    (value != 0).then(|| format!("{name}={value:#x}"))
}

impl Describe for LongMode {
    const FRAME: u64 = 4096;

    fn describe(attributes: &PageAttributes) -> String {
        let flags = [
            (attributes.accessed(), "accessed"),
            (attributes.dirty(), "dirty"),
            (attributes.global(), "global"),
        ];
        let pat = field("pat", attributes.pat().into());
        let key = field("key", attributes.protection_key().into());
        words(&flags, [pat, key, field("software", attributes.software())].into_iter().flatten())
    }
}

impl Describe for Ept {
    const FRAME: u64 = 4096;

    fn describe(attributes: &EptAttributes) -> String {
        let memory = match attributes.memory_type() {
            MemoryType::Uncacheable => "uncacheable",
            MemoryType::WriteCombining => "write-combining",
            MemoryType::WriteThrough => "write-through",
            MemoryType::WriteProtected => "write-protected",
            MemoryType::WriteBack => "write-back",
        };
        let flags = [
            (attributes.accessed(), "accessed"),
            (attributes.dirty(), "dirty"),
            (attributes.ignore_pat(), "ignore-pat"),
            (attributes.user_execute(), "user-execute"),
            (true, memory),
        ];
        words(&flags, field("software", attributes.software().into()))
    }
}

impl Describe for ProcessScoped {
    const FRAME: u64 = 0x1_0000;

    fn describe(attributes: &RadixAttributes) -> String {
        let storage = match attributes.att() {
            Att::Normal => None,
            Att::StrongAccessOrder => Some("strong-order"),
            Att::NonIdempotent => Some("non-idempotent"),
            Att::Tolerant => Some("tolerant-io"),
        };
        let flags = [(attributes.r(), "referenced"), (attributes.c(), "changed")];
        let others = [storage.map(str::to_owned), field("software", attributes.software().into())];
        words(&flags, others.into_iter().flatten())
    }
}
