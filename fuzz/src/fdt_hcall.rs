//! The platform of a Linux guest on POWER: whatever it calls, with whatever in its registers and
//! its memory; and whatever is said to be its kernel.

use std::cell::{Cell, RefCell};

use arbitrary::{Arbitrary, Unstructured};
use pgtable_ppc64::hash::{HptOrder, PageSize};
use pgtable_ppc64::kvm::kvm_ppc_mmuv3_cfg;
use pseries::{
    CpuState, Ending, Host, Hypercall, MIN_MEMORY, Machine, Mmu, Next, Platform, Status, boot,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Two regions with a hole between them.
const REGIONS: [(u64, usize); 2] = [(0, 0x8000), (0x1_0000, 0x4000)];
/// The most calls of a case.
const MOST: usize = 200;
/// `H_PUT_TERM_CHAR`, `H_GET_TERM_CHAR`, the call that RTAS is, and the unit address of the
/// terminal.
const PUT: u64 = 0x58;
const GET: u64 = 0x54;
const RTAS: u64 = 0xf000;
const VTY: u64 = 0x7100_0000;
/// Every call that there is.
const KNOWN: [u64; 10] = [GET, PUT, 0x64, 0x68, 0x6c, 0x70, 0x74, 0x31c, 0x37c, RTAS];

/// A VMM that holds the platform to its word.
struct Strict {
    cpus: u32,
    agrees: bool,
    printed: RefCell<Vec<u8>>,
    notes: Cell<usize>,
    table: Cell<Option<u64>>,
}

impl Strict {
    fn is_one(&self, cpu: u32) {
        assert!(cpu < self.cpus, "asked for CPU {cpu} of {}", self.cpus);
    }
}

impl Host for Strict {
    fn set_lpcr(&self, mask: u64, bits: u64) -> bool {
        assert_eq!(bits & !mask, 0, "bits that are not to be changed");
        self.agrees
    }

    fn configure_mmu(&self, configuration: &kvm_ppc_mmuv3_cfg) -> bool {
        self.table.set(self.agrees.then_some(configuration.process_table));
        self.agrees
    }

    fn external_interrupt(&self, cpu: u32, _: bool) {
        self.is_one(cpu);
    }

    fn cpu_state(&self, cpu: u32) -> CpuState {
        self.is_one(cpu);
        if self.agrees { CpuState::Running } else { CpuState::Stopped }
    }

    fn start_cpu(&self, cpu: u32, entry: u64, r3: u64) -> bool {
        self.is_one(cpu);
        assert!(entry <= u32::MAX.into() && r3 <= u32::MAX.into(), "RTAS has words of 32 bits");
        self.agrees
    }

    fn print(&self, bytes: &[u8]) {
        self.printed.borrow_mut().extend(bytes);
    }

    fn note(&self, _: &str) {
        self.notes.set(self.notes.get() + 1);
    }
}

/// One thing that happens.
#[derive(Arbitrary)]
enum Step {
    /// A hypercall that there is, or, with an odd choice, any.
    Call { cpu: u8, choice: u8, args: [u64; 9] },
    /// An RTAS call: where its block is, its token (a small number is one that there is), and its
    /// arguments.
    Rtas { block: u16, token: u32, args: Vec<u32>, nret: u8 },
    /// The guest writes.
    Write { at: u16, word: u64 },
    /// Somebody types.
    Type(Vec<u8>),
}

/// A session of calls, or an attempt to boot anything.
///
/// # Oracles
/// No call changes memory but RTAS, and RTAS only the results of its block. The host is asked only
/// for CPUs that there are. What is printed is what was in the registers, what is typed comes out
/// in order. Calls that there are not are `H_FUNCTION`; how much is noted has a bound. A process
/// table is registered only if the MMU took it. A kernel that boots has a device tree where R3
/// says, which is one, within memory.
pub fn fdt_hcall(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(flags) = input.arbitrary::<u8>() else { return };
    let largest = if flags & 8 == 0 { PageSize::K64 } else { PageSize::K4 };
    let mmu = if flags & 1 == 0 { Mmu::Radix } else { Mmu::Hash { order: HptOrder::MIN, largest } };
    let machine = Machine { cpus: u32::from(flags >> 4), mmu };
    if flags & 2 != 0 {
        return boots(input.take_rest(), machine);
    }
    let host = Strict {
        cpus: machine.cpus,
        agrees: flags & 4 != 0,
        printed: RefCell::default(),
        notes: Cell::default(),
        table: Cell::default(),
    };
    let memory =
        GuestMemoryMmap::<()>::from_ranges(&REGIONS.map(|(at, bytes)| (GuestAddress(at), bytes)));
    let it = Platform::new(memory.expect("small regions"), host, machine);
    let mut typed = Vec::new();
    for _ in 0..MOST {
        let Ok(step) = input.arbitrary() else { break };
        match step {
            Step::Call { cpu, choice, args } => {
                let known = KNOWN.get(usize::from(choice) / 2).filter(|_| choice & 1 == 0);
                let nr = known.copied().unwrap_or(args[8]);
                one(&it, cpu.into(), Hypercall { nr, args }, &mut typed);
            }
            Step::Rtas { block, token, args, nret } => {
                let token = if token < 64 { 0x2000 + token } else { token };
                let words = [token, args.len() as u32, nret.into()].into_iter().chain(args);
                for (word, at) in words.zip((u64::from(block)..).step_by(4)) {
                    let _ = it.memory().write_obj(word.to_be_bytes(), GuestAddress(at));
                }
                let mut args = [0; 9];
                args[0] = block.into();
                one(&it, 0, Hypercall { nr: RTAS, args }, &mut typed);
            }
            Step::Write { at, word } => {
                let _ = it.memory().write_obj(word, GuestAddress(at.into()));
            }
            Step::Type(bytes) => {
                it.console.type_in(&bytes);
                typed.extend(bytes);
            }
        }
    }
    assert!(it.host().notes.get() <= 256, "what a guest can make us say has a bound");
}

type Session = Platform<GuestMemoryMmap<()>, Strict>;

fn contents(it: &Session) -> Vec<Vec<u8>> {
    let region = |(at, bytes): (u64, usize)| {
        let mut content = vec![0; bytes];
        it.memory().read_slice(&mut content, GuestAddress(at)).expect("it is there");
        content
    };
    REGIONS.map(region).to_vec()
}

/// One call, and what must be true of it.
fn one(it: &Session, cpu: u32, call: Hypercall, typed: &mut Vec<u8>) {
    let before = contents(it);
    it.host().printed.borrow_mut().clear();
    let mut after = call;
    let next = it.hypercall(cpu, &mut after);
    assert_eq!(after.nr, call.nr);
    let resumed = |status| assert_eq!(next, Next::Resume(status), "{call:x?}");

    let block = call.args[0];
    let word = |index: u64| {
        it.memory().read_obj::<[u8; 4]>(GuestAddress(block.saturating_add(4 * index))).ok()
    };
    let results = match (call.nr, word(1), word(2)) {
        (RTAS, Some(nargs), Some(nret)) => {
            let (first, count) =
                (3 + u64::from(u32::from_be_bytes(nargs)), u32::from_be_bytes(nret));
            block.saturating_add(4 * first)..block.saturating_add(4 * (first + u64::from(count)))
        }
        _ => 0..0,
    };
    let regions = REGIONS.into_iter().zip(before.iter().zip(contents(it)));
    // Compared whole first: most calls change nothing.
    for ((start, _), (was, is)) in regions.filter(|(_, (was, is))| *was != is) {
        for (at, (was, is)) in (start..).zip(was.iter().zip(&is)) {
            assert!(was == is || results.contains(&at), "{at:#x} was changed by {call:x?}");
        }
    }
    match call.nr {
        PUT => {
            let [terminal, bytes, words @ ..] = call.args;
            let text: Vec<u8> = words[..2].iter().flat_map(|word| word.to_be_bytes()).collect();
            let taken = (terminal == 0 || terminal == VTY) && bytes <= 16;
            resumed(if taken { Status::SUCCESS } else { Status::PARAMETER });
            assert_eq!(*it.host().printed.borrow(), text[..if taken { bytes as usize } else { 0 }]);
        }
        GET if next == Next::Resume(Status::SUCCESS) => {
            let [bytes, words @ ..] = after.args;
            let text: Vec<u8> = words[..2].iter().flat_map(|word| word.to_be_bytes()).collect();
            assert_eq!(bytes as usize, typed.len().min(16));
            assert_eq!(text[..bytes as usize], typed[..bytes as usize]);
            typed.drain(..bytes as usize);
        }
        nr if !KNOWN.contains(&nr) => resumed(Status::FUNCTION),
        _ => {}
    }
    if let Some(table) = it.process_table() {
        assert_eq!(Some(u64::from(table)), it.host().table.get(), "registered as the MMU took it");
    }
    if let Next::End(Ending::Terminated(why)) = next {
        assert!(why.len() <= 3 * 256, "a text of a guest has a bound");
    }
}

/// Boots `kernel`, whatever it is.
fn boots(kernel: &[u8], machine: Machine) {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MIN_MEMORY as usize)])
        .expect("lazily");
    let Ok(entry) = boot(&memory, machine, kernel, b"initrd", "console=hvc0") else { return };
    let word = |at| {
        u32::from_be_bytes(
            memory.read_obj(GuestAddress(entry.r3 + at)).expect("a tree within memory"),
        )
    };
    assert_eq!(word(0), 0xd00d_feed, "R3 says where the tree is");
    let end = GuestAddress(entry.r3 + u64::from(word(4)) - 1);
    assert!(memory.address_in_range(end), "all of it");
    assert!(word(8) < word(4) && word(12) < word(4), "structure and strings are in it");
}
