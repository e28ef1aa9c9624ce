//! The guest's tables: what the TTBRs of its CPU name while `/init` runs. TTBR0 is `/init`'s, TTBR1
//! the kernel's.

use std::ops::ControlFlow;

use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, Attributes, Gpa, Gva};
use pgtable_aarch64::{Half, Paging, Processor, Regime, Registers, VaRange, VmsaStage1};

use super::boot::at;
use crate::linux::compare::{Leaf, Tables};
use crate::linux::given::Statement;
use crate::linux::listing::each_leaf;
use crate::report::Failure;

type Tree<'a> = Walker<VmsaStage1, &'a GuestTables<'a, Gpa>>;

/// The trees, and where the kernel says that it stands itself.
pub struct Trees<'a> {
    lower: Tree<'a>,
    upper: Tree<'a>,
    cpus: u32,
    /// Where its image begins, by both addresses; and where its initial code begins, which it has
    /// unmapped.
    text: (u64, u64),
    init: u64,
}

impl<'a> Trees<'a> {
    /// The trees that a CPU with these registers translates with.
    pub fn new(
        memory: &'a GuestTables<'a, Gpa>,
        registers: &Registers,
        processor: &Processor,
        cpus: u32,
        statement: &Statement,
    ) -> Result<Self, Failure> {
        let paging = Paging::of(Regime::El10, *registers, processor)?;
        let (Some(lower), Some(upper)) = (paging.half(VaRange::Lower), paging.half(VaRange::Upper))
        else {
            return Err("the guest does not translate both ranges".into());
        };
        let tree = |name: &str, half: &Half| {
            let Half { format, root, .. } = *half;
            let (bits, start) = (format.controls().input_bits, format.start_level());
            println!("linux: {name}: the root at {root}, {bits} bits, from level {start} on");
            Walker::new(format, memory, root)
        };
        let (lower, upper) = (tree("TTBR0", lower), tree("TTBR1", upper));
        let code = statement
            .iomem
            .iter()
            .find(|(_, name)| name == "Kernel code")
            .map(|(range, _)| range.start);
        let (Some(gpa), Some(va)) = (code, statement.symbol("_text")) else {
            return Err("the guest does not say where its kernel is".into());
        };
        let init = statement.symbol("_sinittext").unwrap_or(u64::MAX);
        Ok(Self { lower, upper, cpus, text: (va, gpa), init })
    }
}

fn find(tree: &Tree<'_>, va: Gva) -> Option<Leaf> {
    let found = tree.query(va).ok().flatten()?;
    Some(Leaf { va, gpa: found.output, shift: found.shift, prot: found.attributes.prot() })
}

impl Tables for Trees<'_> {
    fn user(&self, va: Gva) -> Option<Leaf> {
        find(&self.lower, va)
    }

    fn kernel(&self, va: Gva) -> Option<Leaf> {
        find(&self.upper, va)
    }

    fn allows(&self, va: Gva, access: Access) -> bool {
        self.lower.translate(va, access).is_ok()
    }

    fn complete(&self) -> bool {
        true
    }

    fn each_user_leaf(&self, visit: &mut dyn FnMut(Leaf) -> ControlFlow<()>) -> Result<(), String> {
        each_leaf(&self.lower, 1 << self.lower.format().controls().input_bits, visit)
    }

    /// The image stands in memory as it is linked.
    fn symbol(&self, _: &Statement, va: u64) -> Option<Gpa> {
        let (text, gpa) = self.text;
        (va >= text && va < self.init).then(|| Gpa::new(va - text + gpa))
    }

    /// Linux `PAGE_OFFSET`, less `memstart_addr`.
    fn linear(&self) -> Gva {
        let bits = self.upper.format().controls().input_bits;
        Gva::new((u64::MAX << bits).wrapping_sub(at::MEMORY))
    }

    fn log(&self) -> Vec<String> {
        [
            "Linux version".to_owned(),
            "Kernel command line: console=ttyS0 rdinit=/init".to_owned(),
            format!("smp: Brought up 1 node, {} CPU", self.cpus),
            // Since Linux 6.11 after the other CPUs: page_alloc_init_late.
            "Memory: ".to_owned(),
            "Run /init as init process".to_owned(),
        ]
        .into()
    }
}
