//! The guest's statement against what its own tables say: page by page, symbol by symbol, and back.

use std::fmt;
use std::ops::ControlFlow;

use pgtable::{Access, Gpa, Gva, Prot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::given::Statement;

/// A stopped guest's tables, as our walkers read them.
pub trait Tables {
    /// Where `/init`'s address leads, whatever it may be used for; the page's size is `2^shift`.
    fn user(&self, va: Gva) -> Option<Leaf>;

    /// Where an address of the kernel's leads.
    fn kernel(&self, va: Gva) -> Option<Leaf>;

    /// Whether `/init` may do that.
    fn allows(&self, va: Gva, access: Access) -> bool;

    /// Whether the tables hold everything that is mapped. A hashed page table is a cache, and may
    /// lack some.
    fn complete(&self) -> bool;

    /// Calls `visit` for each leaf of `/init`'s, in order, until it breaks.
    ///
    /// # Errors
    /// Tables that cannot be listed, or are more than a guest of ours has.
    fn each_user_leaf(&self, visit: &mut dyn FnMut(Leaf) -> ControlFlow<()>) -> Result<(), String>;

    /// Where the kernel's symbols lead, as far as that is known from elsewhere than the tables.
    fn symbol(&self, statement: &Statement, va: u64) -> Option<Gpa>;

    /// Where the kernel maps all memory.
    fn linear(&self) -> Gva;

    /// What the kernel's log must say of this machine, in order.
    fn log(&self) -> Vec<String>;

    /// What else can be compared on this architecture; returns how much it was.
    fn more(&self, _statement: &Statement, _mismatch: &mut dyn FnMut(String)) -> usize {
        0
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The address that was asked about, or the leaf's first.
    pub va: Gva,
    /// Where it leads.
    pub gpa: Gpa,
    /// The leaf has `2^shift` bytes.
    pub shift: u8,
    /// What it may be used for.
    pub prot: Prot,
}

impl Leaf {
    /// Whether it goes on where `length` bytes from `first` on end, and is like them.
    fn continues(&self, first: &Self, length: u64) -> bool {
        let next = |address: u64| address.wrapping_add(length);
        self.va.get() == next(first.va.get())
            && self.gpa.get() == next(first.gpa.get())
            && (self.shift, self.prot) == (first.shift, first.prot)
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { va, gpa, shift, prot } = self;
        let flag = |is: bool, letter: char| if is { letter } else { '-' };
        let (r, w, x) =
            (flag(prot.read(), 'r'), flag(prot.write(), 'w'), flag(prot.execute(), 'x'));
        write!(
            f,
            "{:#018x} -> {:#014x} {r}{w}{x} in leaves of {} KiB",
            va.get(),
            gpa.get(),
            (1_u64 << shift) >> 10
        )
    }
}

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub pages: usize,
    pub uncached: usize,
    pub symbols: usize,
    pub mapped_lines: usize,
    pub leaves: usize,
    pub log: usize,
    pub mismatches: usize,
    /// Pages by what they are.
    pub kinds: Vec<(&'static str, usize)>,
    /// Leaves of `/init`'s by their sizes.
    pub sizes: Vec<(u8, usize)>,
    /// `/init`'s address space: what is mapped in one piece, with leaves of one size.
    pub ranges: Vec<(Leaf, u64)>,
    /// The first of the mismatches, for a person to read.
    pub shown: Vec<String>,
}

/// How many mismatches are shown.
const SHOWN: usize = 20;

impl Comparison {
    fn mismatch(&mut self, text: String) {
        self.mismatches += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(text);
        }
    }

    /// The line at the end.
    pub fn ok(&self) -> String {
        let Self { pages, symbols, mapped_lines, leaves, log, uncached, mismatches, .. } = self;
        let uncached = if *uncached == 0 { String::new() } else { format!(" uncached={uncached}") };
        format!(
            "ok pages={pages} symbols={symbols} mapped-lines={mapped_lines} leaves={leaves} log={log}{uncached} mismatches={mismatches}"
        )
    }
}

/// Compares all of it.
pub fn compare(
    statement: &Statement,
    tables: &impl Tables,
    memory: &GuestMemoryMmap,
) -> Comparison {
    let mut it = Comparison::default();
    pages(&mut it, statement, tables, memory);
    permissions(&mut it, statement, tables);
    leaves(&mut it, statement, tables);
    kinds(&mut it, statement, tables);
    symbols(&mut it, statement, tables, memory);
    all_memory(&mut it, statement, tables);
    log(&mut it, statement, tables);
    let mut more = Vec::new();
    it.mapped_lines = tables.more(statement, &mut |text| more.push(text));
    for text in more {
        it.mismatch(text);
    }
    it
}

/// Each page leads where `/proc/self/pagemap` says, or nowhere; and what it holds is what the
/// program put there.
fn pages(
    it: &mut Comparison,
    statement: &Statement,
    tables: &impl Tables,
    memory: &GuestMemoryMmap,
) {
    for (&va, &pfn) in &statement.pages {
        let found = tables.user(Gva::new(va)).map(|leaf| leaf.gpa.get());
        let told = pfn.map(|pfn| pfn.wrapping_mul(statement.page));
        match (told, found) {
            (Some(_), None) if !tables.complete() => {
                it.uncached += 1;
                continue;
            }
            (told, found) if told != found => {
                let show = |address: Option<u64>| {
                    address.map_or("nowhere".into(), |it| format!("to {it:#x}"))
                };
                it.mismatch(format!(
                    "page {va:#x} leads {}, and the guest says {}",
                    show(found),
                    show(told)
                ));
            }
            (Some(gpa), _) if statement.is_tagged(va) => {
                let held = memory.read_obj::<u64>(GuestAddress(gpa)).ok();
                if held != Some(va) {
                    it.mismatch(format!(
                        "page {va:#x} at {gpa:#x} holds {held:x?}, not its address"
                    ));
                }
            }
            _ => {}
        }
        it.pages += usize::from(pfn.is_some());
    }
}

/// No page may be used for what its area forbids; a page that is present can be read where its area
/// can.
fn permissions(it: &mut Comparison, statement: &Statement, tables: &impl Tables) {
    let forbidden = [('r', Access::READ), ('w', Access::WRITE), ('x', Access::FETCH)];
    for vma in &statement.vmas {
        for (&va, _) in statement.pages.range(vma.range.clone()).filter(|(_, pfn)| pfn.is_some()) {
            if tables.user(Gva::new(va)).is_none() {
                continue;
            }
            for (permission, access) in forbidden {
                let access = access.by_user();
                let (may, can) =
                    (vma.permissions.contains(permission), tables.allows(Gva::new(va), access));
                if can && !may || may && !can && permission == 'r' {
                    let (permissions, name) = (&vma.permissions, &vma.name);
                    let is = if can { "allowed" } else { "denied" };
                    it.mismatch(format!("page {va:#x} of {permissions} {name}: {access} is {is}"));
                }
            }
        }
    }
}

/// After so many leaves that the guest did not speak of, nobody looks for more.
const STRANGERS: usize = 1 << 10;

/// Each leaf of the tree is one that the guest spoke of.
fn leaves(it: &mut Comparison, statement: &Statement, tables: &impl Tables) {
    let mut strangers = Vec::new();
    let listed = tables.each_user_leaf(&mut |leaf| {
        it.leaves += 1;
        match it.sizes.iter_mut().find(|(shift, _)| *shift == leaf.shift) {
            Some((_, count)) => *count += 1,
            None => it.sizes.push((leaf.shift, 1)),
        }
        let bytes = 1_u64 << leaf.shift;
        match it.ranges.last_mut() {
            Some((first, length)) if leaf.continues(first, *length) => *length += bytes,
            _ => it.ranges.push((leaf, bytes)),
        }
        for offset in (0..bytes).step_by(usize::try_from(statement.page).unwrap_or(0x1000)) {
            let va = leaf.va.get().wrapping_add(offset);
            let gpa = leaf.gpa.get().wrapping_add(offset);
            let told = statement
                .pages
                .get(&va)
                .copied()
                .flatten()
                .map(|pfn| pfn.wrapping_mul(statement.page));
            if told != Some(gpa) {
                strangers.push(format!(
                    "the tree maps {va:#x} to {gpa:#x}, and the guest says {told:x?}"
                ));
            }
            // The guest's tables may be endless.
            if strangers.len() == STRANGERS {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    for text in listed.err().into_iter().chain(strangers) {
        it.mismatch(text);
    }
    it.sizes.sort_unstable();
}

/// Every kind of memory was looked at: else agreement says little.
fn kinds(it: &mut Comparison, statement: &Statement, tables: &impl Tables) {
    it.kinds = ["anonymous", "of a file", "stack", "of the program"].map(|kind| (kind, 0)).into();
    for vma in &statement.vmas {
        let kind = match vma.name.as_str() {
            "" => "anonymous",
            "/tagged" => "of a file",
            "[stack]" => "stack",
            _ => "of the program",
        };
        let present =
            statement.pages.range(vma.range.clone()).filter(|(_, pfn)| pfn.is_some()).count();
        if let Some((_, count)) = it.kinds.iter_mut().find(|(it, _)| *it == kind) {
            *count += present;
        }
    }
    let missing: Vec<_> =
        it.kinds.iter().filter(|(_, count)| *count == 0).map(|(kind, _)| *kind).collect();
    for kind in missing {
        it.mismatch(format!("the guest has no page that is {kind}"));
    }
    // A hashed guest of ours has no large pages: its MMU is not said to have any.
    if tables.complete() && !it.sizes.iter().any(|(shift, _)| *shift >= HUGE) {
        it.mismatch("the guest has no huge page".into());
    }
}

/// A huge page has at least 2 MiB.
const HUGE: u8 = 21;

/// Each symbol leads where it must, and the kernel's banner can be read there.
fn symbols(
    it: &mut Comparison,
    statement: &Statement,
    tables: &impl Tables,
    memory: &GuestMemoryMmap,
) {
    for (va, name) in &statement.symbols {
        let Some(expected) = tables.symbol(statement, *va) else { continue };
        let found = tables.kernel(Gva::new(*va)).map(|leaf| leaf.gpa);
        if found != Some(expected) {
            it.mismatch(format!("symbol {name} at {va:#x} leads to {found:x?}, not to {expected}"));
        }
        it.symbols += 1;
    }
    // Not every kernel knows its data by name.
    let Some(leaf) = statement.symbol("linux_banner").and_then(|va| tables.kernel(Gva::new(va)))
    else {
        return;
    };
    let banner = statement
        .log
        .iter()
        .find(|line| line.starts_with("Linux version"))
        .map_or("", String::as_str);
    let mut held = vec![0; banner.len()];
    let read = memory.read_slice(&mut held, GuestAddress(leaf.gpa.get()));
    if read.is_err() || held != banner.as_bytes() {
        let held = String::from_utf8_lossy(&held).into_owned();
        it.mismatch(format!(
            "linux_banner at {} holds {held:?}, and the log says {banner:?}",
            leaf.gpa
        ));
    }
}

/// All memory that `/proc/iomem` lists is in the kernel's linear mapping.
fn all_memory(it: &mut Comparison, statement: &Statement, tables: &impl Tables) {
    for range in statement.ram() {
        let mut gpa = range.start.next_multiple_of(statement.page);
        while gpa < range.end {
            let va = Gva::new(tables.linear().get().wrapping_add(gpa));
            let step = match tables.kernel(va) {
                Some(leaf) if leaf.gpa.get() == gpa => {
                    (1_u64 << leaf.shift) - (gpa & ((1 << leaf.shift) - 1))
                }
                None if !tables.complete() => statement.page,
                found => {
                    it.mismatch(format!(
                        "memory at {gpa:#x} is at {va} for the kernel, which leads to {found:x?}"
                    ));
                    statement.page
                }
            };
            gpa = gpa.saturating_add(step);
        }
    }
}

/// The kernel's log says what it must, each line after the one before.
fn log(it: &mut Comparison, statement: &Statement, tables: &impl Tables) {
    let mut lines = statement.log.iter();
    for expected in tables.log() {
        if !lines.any(|line| line.contains(&expected)) {
            it.mismatch(format!(
                "the kernel's log does not say \"{expected}\", or not in its place"
            ));
            return;
        }
        it.log += 1;
    }
}

#[cfg(test)]
mod tests;
