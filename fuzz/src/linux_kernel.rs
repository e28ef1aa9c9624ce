//! What an arbitrary memory says of a Linux kernel's processes: VMCOREINFO, kallsyms, BTF, tasks.

use memory_image::{Allowance, Image, VmcoreInfo};
use table_dump::{Arch, Located, Request, RootChoice, Space, locate, processes};

use crate::linux_model::{Kernel, mapped, value};

/// What a case may cost.
const ALLOWANCE: Allowance = Allowance { words: 1 << 20, bytes: 1 << 20 };
/// Bytes of tables, below the memory that the input is.
const TABLES: usize = 0x2000;
/// Where the kernel has its memory: pointers of 64 bits, and of 32.
const WIDE: u64 = 0xffff_8880_0000_0000;
const NARROW: u64 = 0xc000_0000;

/// A byte (bit 0: pointers have 32 bits), the length of a text in two, the text of VMCOREINFO,
/// memory from 0x2000 on. One large page shows all of it to the kernel.
///
/// # Oracles
/// A text has the last value of each key. Where the model ([`Kernel::tasks`]), which unpacks all
/// names and all types, reads a list of tasks, the same list is read, to the same end.
pub fn linux_kernel(data: &[u8]) {
    let Some(([flags, low, high], rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (text, rest) = rest.split_at(length);
    let info = VmcoreInfo::of_text(text);
    let text = String::from_utf8_lossy(text);
    for line in text.lines().map(|line| line.trim_matches('\0')) {
        if let Some((key, _)) = line.split_once('=') {
            assert_eq!(info.get(key), value(&text, key), "{key}");
        }
    }

    let narrow = flags & 1 != 0;
    let (arch, base) = if narrow { (Arch::X86Pae, NARROW) } else { (Arch::X86_64, WIDE) };
    let mut memory = vec![0; TABLES];
    // One entry leads to the second table, whose first is a page.
    let entry = if narrow { 3 } else { base >> 39 & 511 } as usize * 8;
    memory[entry..entry + 8].copy_from_slice(&(0x1001_u64 | u64::from(!narrow) << 1).to_le_bytes());
    memory[0x1000..0x1008].copy_from_slice(&0xe3_u64.to_le_bytes());
    memory.extend(rest);
    let image = Image::open(&memory[..], 0).expect("raw memory");
    let request =
        Request { arch: Some(arch), root: Some(RootChoice::Address(0)), ..Request::default() };
    let located = locate(&image, &request, &|_, _| ()).expect("its root is there");
    let located = Located { linux: Some(info), ..located };
    let tables = image.tables(ALLOWANCE);
    let space = Space::of(&image, &tables, &located).expect("its tables are there");
    assert_eq!(space.translate(base + mapped(narrow) - 1, None).pa, Some(mapped(narrow) - 1));

    let found = processes(&image, &space, &located, &|_, _| ());
    let (words, bytes) = tables.cost();
    assert!(words <= ALLOWANCE.words && bytes <= ALLOWANCE.bytes, "{words} {bytes}");
    if let Ok(found) = &found {
        assert!(found.processes.len() <= memory.len(), "a task each that stands somewhere else");
    }
    let kernel = Kernel { memory: &memory, base, narrow, text: &text };
    let (false, Ok(Some(want))) = (tables.is_over(), kernel.tasks()) else { return };
    let found = found.expect("the model reads a list");
    assert_eq!(found.fault.is_none(), want.ends, "{:?}", found.fault);
    let seen = found.processes.into_iter().map(|it| {
        let (pid, name) = (it.pid.expect("a number"), it.name.expect("a name"));
        (pid, it.parent, name, it.root, it.kernel)
    });
    assert_eq!(seen.collect::<Vec<_>>(), want.tasks);
}
