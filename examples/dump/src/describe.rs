//! What a page's attributes say, in the words of its architecture.

use arch_ppc64::radix::{Att, PageAttributes as RadixAttributes, ProcessScoped};
use arch_riscv64::{LeafAttributes, Sv, SvX4};
use arch_x86::{Ept, EptAttributes, LongMode, MemoryType, PageAttributes};
use pgtable::{Attributes as _, Format, Memory};

/// What helps to name things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// The tables are those of Linux, which loads the PAT with types of its own.
    pub linux: bool,
}

/// A format whose attributes can be told in words.
pub trait Describe: Format {
    /// Bytes of the frames that an operating system cuts tables from: 64 KiB on POWER, a page
    /// elsewhere.
    const FRAME: u64;

    /// What `attributes` say besides the rights, words with spaces between.
    fn describe(attributes: &Self::Attributes, names: Names) -> String;

    /// What the manual calls an entry of this level.
    fn level_name(level: u8) -> &'static str;
}

/// The memory type that an index into the PAT selects: as after reset (SDM §12.12.4), as Linux
/// loads it (`arch/x86/mm/pat/memtype.c`). Write-back is not named.
fn pat(index: u8, names: Names) -> Option<&'static str> {
    let (reset, linux) = match index & 7 {
        0 | 4 => return None,
        1 => ("pat1:write-through-unless-changed", "write-combining"),
        2 | 6 => ("uncached-minus", "uncached-minus"),
        3 => ("uncached", "uncached"),
        5 => ("pat5:write-through-unless-changed", "write-protected"),
        _ => ("pat7:uncached-unless-changed", "write-through"),
    };
    Some(if names.linux { linux } else { reset })
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

    fn level_name(level: u8) -> &'static str {
        ["PTE", "PDE", "PDPTE", "PML4E", "PML5E"].get(usize::from(level)).unwrap_or(&"entry")
    }

    fn describe(attributes: &PageAttributes, names: Names) -> String {
        let flags = [
            (attributes.accessed(), "accessed"),
            (attributes.dirty(), "dirty"),
            (attributes.global(), "global"),
        ];
        let pat = pat(attributes.pat(), names).map(str::to_owned);
        let key = field("key", attributes.protection_key().into());
        words(&flags, [pat, key, field("software", attributes.software())].into_iter().flatten())
    }
}

impl Describe for Ept {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        let names = ["EPT PTE", "EPT PDE", "EPT PDPTE", "EPT PML4E", "EPT PML5E"];
        names.get(usize::from(level)).unwrap_or(&"EPT entry")
    }

    fn describe(attributes: &EptAttributes, _: Names) -> String {
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

    fn level_name(level: u8) -> &'static str {
        let names = ["PTE", "level-1 PDE", "level-2 PDE", "level-3 PDE"];
        names.get(usize::from(level)).unwrap_or(&"entry")
    }

    fn describe(attributes: &RadixAttributes, _: Names) -> String {
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

/// What a leaf of RISC-V says; `global` of a first stage.
fn sv<const GUEST: bool>(attributes: &LeafAttributes<GUEST>, global: bool) -> String {
    let memory = match attributes.memory() {
        Memory::Normal => None,
        Memory::Uncached => Some("non-cacheable"),
        Memory::Device => Some("io"),
    };
    let flags =
        [(attributes.accessed(), "accessed"), (attributes.dirty(), "dirty"), (global, "global")];
    let others = [memory.map(str::to_owned), field("software", attributes.software().into())];
    words(&flags, others.into_iter().flatten())
}

impl Describe for Sv {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        let names = ["level-0 PTE", "level-1 PTE", "level-2 PTE", "level-3 PTE", "level-4 PTE"];
        names.get(usize::from(level)).unwrap_or(&"PTE")
    }

    fn describe(attributes: &Self::Attributes, _: Names) -> String {
        sv(attributes, attributes.global())
    }
}

impl Describe for SvX4 {
    const FRAME: u64 = 4096;

    fn level_name(level: u8) -> &'static str {
        Sv::level_name(level)
    }

    fn describe(attributes: &Self::Attributes, _: Names) -> String {
        sv(attributes, false)
    }
}
