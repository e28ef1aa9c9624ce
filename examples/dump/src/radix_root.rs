//! The root of a radix tree on POWER: from a process table, or from what Linux says of itself.

use memory_image::{Allowance, Image};
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva};
use pgtable_ppc64::radix::{
    Granule, GuestMmu, ProcessScoped, ProcessTable, ProcessTableWord, RcPolicy, Strictness,
};

use super::root::{Arch, Infos, Located, Request, Root, RootChoice};
use super::root_error::{RootError, Several};
use super::search::search_process_tables;

/// Where Linux on POWER has its linear map (`PAGE_OFFSET`).
const LINEAR_MAP: u64 = 0xc000_0000_0000_0000;

/// Entries are judged as by KVM's walker: Linux keeps bits of its own where the manual has reserved
/// ones.
fn format() -> ProcessScoped {
    ProcessScoped::new(Granule::K64)
        .with_rc(RcPolicy::HardwareUpdate)
        .with_strictness(Strictness::Kvm)
}

/// Process 0 is reached from quadrant 3, others from quadrant 0: as while another process runs, or
/// that one.
fn mmu(table: ProcessTable, pid: u32) -> GuestMmu {
    GuestMmu::new(table.word(), pid.max(1), format())
}

/// The format of the kernel's own tree.
fn kernel_format() -> ProcessScoped {
    GuestMmu::new(ProcessTableWord::new(), 1, format()).format(0)
}

/// The format of the tree of a process.
pub(crate) fn process_format() -> ProcessScoped {
    GuestMmu::new(ProcessTableWord::new(), 1, format()).format(1)
}

/// Whether the tree at `root` maps the first address of the linear map to 0, as every Linux does.
pub(crate) fn maps_linearly(image: &Image<'_>, root: u64) -> bool {
    let memory = image.tables(Allowance { words: 1 << 14, bytes: 1 << 18 });
    let walker = Walker::new(kernel_format(), &memory, Gpa::new(root));
    let linear = walker.translate(Gva::new(LINEAR_MAP), Access::READ);
    linear.is_ok_and(|linear| linear.output == Gpa::new(0))
}

pub(crate) fn locate(
    image: &Image<'_>,
    request: &Request,
    infos: Infos<'_>,
    progress: &dyn Fn(u64, u64),
) -> Result<Located, RootError> {
    let arch = Arch::Ppc64Radix;
    let pid = request.pid.unwrap_or(0);
    if let Some(RootChoice::Address(root)) = request.root {
        let bad = RootError::Bad { root, why: "a process table is aligned to its size" };
        let table = process_table(root).ok_or(bad)?;
        return of_process(image, table, pid, "--root");
    }
    let info = infos.one()?;
    let radix = info.and_then(|info| info.number("RADIX_MMU"));
    if radix == Some(0) {
        let why = "VMCOREINFO says that the kernel uses a hashed page table (RADIX_MMU=0): \
            give --arch ppc64-hash --root (HTABORG and HTABSIZE, as in SDR1)";
        return Err(RootError::Unsupported(why.to_owned()));
    }
    let swapper = info
        .and_then(|info| info.symbol("swapper_pg_dir"))
        .filter(|swapper| *swapper >= LINEAR_MAP)
        .map(|swapper| swapper - LINEAR_MAP);
    if let Some(root) = swapper.filter(|_| pid == 0) {
        let source = "swapper_pg_dir in VMCOREINFO";
        let found = Located::new(arch, Root::Radix(kernel_format(), Gpa::new(root)), source);
        if radix == Some(1) || maps_linearly(image, root) {
            return Ok(found);
        }
        let why = format!(
            "VMCOREINFO does not tell the kind of tables (Linux tells since 6.7), and at \
            swapper_pg_dir ({root:#x}) no radix tree stands: it may be --arch ppc64-hash --root SDR1"
        );
        return Err(RootError::Unsupported(why));
    }
    let (mut tables, complete) = search_process_tables(image, progress);
    // The kernel's own root says which is its process table.
    if tables.len() > 1 {
        if let Some(swapper) = swapper {
            tables.retain(|(_, root)| *root == swapper);
        }
    }
    let mut located = match tables[..] {
        [] => {
            let given_up = if complete { "" } else { "; the search was given up" };
            return Err(RootError::NoRoot(format!("the process table's address{given_up}")));
        }
        [(table, _)] => of_process(image, table, pid, "found by its looks")?,
        _ => {
            let candidates = tables.iter().map(|(table, root)| {
                format!("--root {:#x} (its kernel's root is {root:#x})", table.base().get())
            });
            let what = "process tables";
            return Err(RootError::Several(Several { what, candidates: candidates.collect() }));
        }
    };
    if !complete {
        located.remarks.push("the search for process tables was given up".to_owned());
    }
    Ok(located)
}

/// The tree of process `pid` in `table`.
fn of_process(
    image: &Image<'_>,
    table: ProcessTable,
    pid: u32,
    source: &str,
) -> Result<Located, RootError> {
    let base = table.base().get();
    let mut entry = [0; 16];
    let here = u64::from(pid) < table.entries();
    let read = image.read(base + u64::from(pid) * 16, &mut entry);
    if let (true, Err(why)) = (here, &read) {
        let why = format!("is unknown: {why}");
        return Err(RootError::NoProcess { pid, table: base, why });
    }
    if here && entry == [0; 16] {
        return Err(RootError::NoProcess { pid, table: base, why: "is absent".to_owned() });
    }
    let memory = image.tables(Allowance::default());
    let walker = mmu(table, pid)
        .walker(&memory, pid)
        .map_err(|cause| RootError::no_process(pid, base, cause))?;
    let source = format!("process {pid} of the process table at {base:#x} ({source})");
    Ok(Located::new(Arch::Ppc64Radix, Root::Radix(*walker.format(), walker.root()), source))
}

/// The process table at `root`: PRTS in its low bits, or as large as its alignment allows and Linux
/// makes it (16 MiB).
pub(crate) fn process_table(root: u64) -> Option<ProcessTable> {
    let word = ProcessTableWord::from_bits(root);
    match word.prts() {
        0 => {
            let largest = (root.trailing_zeros() as u8).clamp(12, 24) - 12;
            ProcessTable::new(Gpa::new(word.base()), largest)
        }
        _ => ProcessTable::of_word(word),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn process_tables_by_their_address() {
        for (root, base, entries) in [
            (0x600_0000, 0x600_0000, 1 << 20),
            (0x600_000c, 0x600_0000, 1 << 20),
            (0x13_0000, 0x13_0000, 4096),
            (0x13_1000, 0x13_1000, 256),
            (0x600_0004, 0x600_0000, 4096),
        ] {
            let table = process_table(root).unwrap();
            assert_eq!((table.base(), table.entries()), (Gpa::new(base), entries), "{root:#x}");
        }
        assert_eq!(process_table(0x1004), None);
    }
}
