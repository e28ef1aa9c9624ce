//! The guest’s tables: what the CR3 of its CPU names while `/init` runs. One tree for both halves,
//! user and kernel.

use std::ops::ControlFlow;

use kvm_x86::Features;
use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, Attributes, Gpa, Gva};
use pgtable_x86::{Levels, LongMode, Paging, Registers as Control};

use super::Registers;
use crate::linux::compare::{Leaf, Tables};
use crate::linux::given::Statement;
use crate::linux::listing::each_leaf;
use crate::report::Failure;

/// The kernel's image begins here (Linux `__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// The tree, and where the kernel says that it stands itself.
pub struct Trees<'a> {
    walker: Walker<LongMode, &'a GuestTables<'a, Gpa>>,
    levels: Levels,
    /// Its first byte, by both addresses; and where its initial code begins, which it has unmapped.
    text: (u64, u64),
    init: u64,
}

impl<'a> Trees<'a> {
    /// The tree that the CPU with these registers translates with.
    pub fn new(
        memory: &'a GuestTables<'a, Gpa>,
        registers: &Registers,
        features: Features,
        statement: &Statement,
    ) -> Result<Self, Failure> {
        let sregs = &registers.sregs;
        let control = Control::from_raw(sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer);
        let Paging::Long { format, root, .. } = Paging::of(control, features.controls())? else {
            return Err("the guest has no paging on".into());
        };
        println!("linux: CR3 {:#x}, the root at {root}; {:?} levels", sregs.cr3, format.levels());
        let code = statement
            .iomem
            .iter()
            .find(|(_, name)| name == "Kernel code")
            .map(|(range, _)| range.start);
        let (Some(gpa), Some(va)) = (code, statement.symbol("_text")) else {
            return Err("the guest does not say where its kernel is".into());
        };
        let init = statement.symbol("_sinittext").unwrap_or(u64::MAX);
        Ok(Self {
            walker: Walker::new(format, memory, root),
            levels: format.levels(),
            text: (va, gpa),
            init,
        })
    }

    fn find(&self, va: Gva) -> Option<Leaf> {
        let found = self.walker.query(va).ok().flatten()?;
        Some(Leaf { va, gpa: found.output, shift: found.shift, prot: found.attributes.prot() })
    }
}

impl Tables for Trees<'_> {
    fn user(&self, va: Gva) -> Option<Leaf> {
        self.find(va)
    }

    fn kernel(&self, va: Gva) -> Option<Leaf> {
        self.find(va)
    }

    fn allows(&self, va: Gva, access: Access) -> bool {
        self.walker.translate(va, access).is_ok()
    }

    fn complete(&self) -> bool {
        true
    }

    fn each_user_leaf(&self, visit: &mut dyn FnMut(Leaf) -> ControlFlow<()>) -> Result<(), String> {
        let bytes = 1_u64 << if self.levels == Levels::Five { 56 } else { 47 };
        each_leaf(&self.walker, bytes, visit)
    }

    /// The image stands in memory as it is linked, from its first byte on.
    fn symbol(&self, _: &Statement, va: u64) -> Option<Gpa> {
        let (text, gpa) = self.text;
        (va >= KERNEL_MAP && va < self.init)
            .then(|| Gpa::new(va.wrapping_sub(text).wrapping_add(gpa)))
    }

    /// Linux `page_offset_base` without KASLR (`Documentation/arch/x86/x86_64/mm.rst`).
    fn linear(&self) -> Gva {
        Gva::new(match self.levels {
            Levels::Four => 0xffff_8880_0000_0000,
            Levels::Five => 0xff11_0000_0000_0000,
        })
    }

    fn log(&self) -> Vec<String> {
        ["Linux version", "Kernel command line: ", "Memory: ", "Run /init as init process"]
            .map(str::to_owned)
            .into()
    }
}
