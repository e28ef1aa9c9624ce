//! The platform of a Linux guest on POWER: what its calls answer, and that no argument makes it
//! panic.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Mutex;

use pgtable_ppc64::hash::{HptOrder, PageSize};
use pgtable_ppc64::kvm::kvm_ppc_mmuv3_cfg;
use pseries::{
    BootError, CpuState, Ending, Host, Hypercall, Machine, Mmu, Next, Platform, Status, boot,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Writes down what it is asked for.
#[derive(Default)]
struct Recorder {
    asked: Mutex<Vec<String>>,
    printed: Mutex<Vec<u8>>,
}

impl Recorder {
    fn ask(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

impl Host for Recorder {
    fn set_lpcr(&self, mask: u64, bits: u64) -> bool {
        self.ask(format!("lpcr {mask:#x} {bits:#x}"));
        // As a POWER9 before DD2.1 in radix guests.
        mask != 3 << 23 || bits == 0
    }

    fn configure_mmu(&self, it: &kvm_ppc_mmuv3_cfg) -> bool {
        self.ask(format!("mmu {:#x} {:#x}", it.flags, it.process_table));
        true
    }

    fn external_interrupt(&self, cpu: u32, pending: bool) {
        assert!(cpu < CPUS);
        self.ask(format!("interrupt {cpu} {pending}"));
    }

    fn cpu_state(&self, cpu: u32) -> CpuState {
        assert!(cpu < CPUS);
        if cpu == 0 { CpuState::Running } else { CpuState::Stopped }
    }

    fn start_cpu(&self, cpu: u32, entry: u64, r3: u64) -> bool {
        assert!(cpu < CPUS);
        self.ask(format!("start {cpu} {entry:#x} {r3:#x}"));
        true
    }

    fn print(&self, bytes: &[u8]) {
        self.printed.lock().unwrap().extend(bytes);
    }

    fn note(&self, text: &str) {
        self.ask(format!("note {text}"));
    }
}

const CPUS: u32 = 2;
const HASH: Mmu = Mmu::Hash { order: HptOrder::MIN, largest: PageSize::K64 };
const MEMORY: usize = 0x4_0000;

fn platform(mmu: Mmu) -> Platform<GuestMemoryMmap, Recorder> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    Platform::new(memory, Recorder::default(), Machine { cpus: CPUS, mmu })
}

fn call(it: &Platform<GuestMemoryMmap, Recorder>, nr: u64, given: &[u64]) -> (Next, [u64; 9]) {
    let mut args = [0x5555; 9];
    args[..given.len()].copy_from_slice(given);
    let mut call = Hypercall { nr, args };
    (it.hypercall(0, &mut call), call.args)
}

fn asked(it: &Platform<GuestMemoryMmap, Recorder>) -> Vec<String> {
    std::mem::take(&mut *it.host().asked.lock().unwrap())
}

#[test]
fn hypercalls_answer_as_papr_says() {
    const RADIX_TABLE: &str = "mmu 0x3 0x800000001e00000c";
    let (set_mode, register) = (0x31c, 0x37c);
    for (name, nr, args, status, wanted) in [
        (
            "little-endian interrupts",
            set_mode,
            &[1, 4, 0, 0][..],
            Status::SUCCESS,
            "lpcr 0x2000000 0x2000000",
        ),
        ("big-endian interrupts", set_mode, &[0, 4, 0, 0], Status::SUCCESS, "lpcr 0x2000000 0x0"),
        (
            "AIL that the CPU has not",
            set_mode,
            &[3, 3, 0, 0],
            Status::UNSUPPORTED_FLAG,
            "lpcr 0x1800000 0x1800000",
        ),
        ("AIL 1 is reserved", set_mode, &[1, 3, 0, 0], Status::UNSUPPORTED_FLAG, ""),
        ("a flag of no endianness", set_mode, &[2, 4, 0, 0], Status::UNSUPPORTED_FLAG, ""),
        ("a value where there is none", set_mode, &[1, 4, 1, 0], Status::P3, ""),
        ("another", set_mode, &[1, 4, 0, 1], Status::P4, ""),
        ("no resource", set_mode, &[1, 9, 0, 0], Status::P2, ""),
        (
            "Linux's process table",
            register,
            &[0x1d, 0x1e00_0000, 0, 12],
            Status::SUCCESS,
            RADIX_TABLE,
        ),
        ("misaligned", register, &[0x1d, 0x1_0100, 0, 12], Status::P2, ""),
        ("beyond", register, &[0x1d, 1 << 60, 0, 12], Status::P2, ""),
        ("a page size", register, &[0x1d, 0x1_0000, 1, 12], Status::P3, ""),
        ("too large", register, &[0x1d, 0x1_0000, 0, 25], Status::P4, ""),
        ("an unknown flag", register, &[0x3d, 0x1_0000, 0, 12], Status::PARAMETER, ""),
        ("hash in a radix guest", register, &[0x18, 0, 0, 0], Status::PARAMETER, ""),
        ("IPI to a CPU that takes none", 0x6c, &[1, 4], Status::SUCCESS, "interrupt 1 false"),
        ("IPI to nobody", 0x6c, &[2, 4], Status::PARAMETER, ""),
        ("IPI far out", 0x6c, &[1 << 32, 4], Status::PARAMETER, ""),
        ("print too much", 0x58, &[0, 17, 0, 0], Status::PARAMETER, ""),
        ("print elsewhere", 0x58, &[1, 1, 0, 0], Status::PARAMETER, ""),
        ("unknown", 0x1c8, &[], Status::FUNCTION, "note hypercall 0x1c8 is not there: H_FUNCTION"),
    ] {
        let it = platform(Mmu::Radix);
        assert_eq!(call(&it, nr, args).0, Next::Resume(status), "{name}");
        assert_eq!(asked(&it).join(", "), wanted, "{name}");
    }
}

#[test]
fn a_hashed_guest_has_nothing_to_register() {
    let it = platform(HASH);
    assert_eq!(call(&it, 0x37c, &[0, 0, 0, 0]).0, Next::Resume(Status::SUCCESS));
    assert_eq!(call(&it, 0x37c, &[0x1d, 0x1_0000, 0, 12]).0, Next::Resume(Status::PARAMETER));
    assert!(asked(&it).is_empty() && it.process_table().is_none());
}

#[test]
fn an_unknown_call_is_noted_once() {
    let it = platform(Mmu::Radix);
    for nr in [0x1c8, 0x1c8, 0x398, 0x1c8].into_iter().chain(0x1_0000..0x1_1000).chain([0x1c8]) {
        assert_eq!(call(&it, nr, &[]).0, Next::Resume(Status::FUNCTION));
    }
    let notes = asked(&it);
    assert_eq!(notes.iter().filter(|note| note.contains("0x1c8")).count(), 1);
    assert!(notes.len() <= 256, "what a guest can make us say has a bound");
}

#[test]
fn the_terminal_has_two_directions() {
    let it = platform(Mmu::Radix);
    let hello = u64::from_be_bytes(*b"hello, w");
    call(&it, 0x58, &[0, 12, hello, u64::from_be_bytes(*b"orld....")]);
    assert_eq!(*it.host().printed.lock().unwrap(), b"hello, world");
    it.console.type_in(b"twenty characters...");
    let word = |text: &[u8; 8]| u64::from_be_bytes(*text);
    let read = |it| call(it, 0x54, &[0x7100_0000]).1[..3].to_vec();
    assert_eq!(read(&it), [16, word(b"twenty c"), word(b"haracter")]);
    assert_eq!(read(&it), [4, word(b"s...\0\0\0\0"), 0]);
    assert_eq!(read(&it), [0, 0, 0]);
}

/// Makes an RTAS call with its block at `at`, and returns what became of it and the results.
fn rtas(
    it: &Platform<GuestMemoryMmap, Recorder>,
    at: u64,
    token: u32,
    args: &[u32],
    nret: u32,
) -> (Next, Vec<u32>) {
    let words = [token, args.len() as u32, nret].into_iter().chain(args.iter().copied());
    for (word, at) in words.zip((at..).step_by(4)) {
        it.memory().write_obj(word.to_be_bytes(), GuestAddress(at)).unwrap();
    }
    let next = call(it, 0xf000, &[at]).0;
    let results = at + 12 + 4 * args.len() as u64;
    let read = |index| {
        u32::from_be_bytes(
            it.memory().read_obj(GuestAddress(results + 4 * u64::from(index))).unwrap(),
        )
    };
    (next, (0..nret).map(read).collect())
}

#[test]
fn rtas_serves() {
    let it = platform(Mmu::Radix);
    let none = u32::MAX - 2;
    let done = Next::Resume(Status::SUCCESS);
    assert_eq!(rtas(&it, 0x100, 0x2000, &[u32::from(b'!')], 1), (done.clone(), vec![0]));
    assert_eq!(*it.host().printed.lock().unwrap(), b"!");
    for (cpu, state) in [(0, [0, 2]), (1, [0, 0]), (2, [none, 0])] {
        assert_eq!(rtas(&it, 0x200, 0x2005, &[cpu], 2), (done.clone(), state.to_vec()));
    }
    assert_eq!(rtas(&it, 0x300, 0x2006, &[1, 0x4000, 7], 1), (done.clone(), vec![0]));
    assert_eq!(rtas(&it, 0x300, 0x2006, &[2, 0x4000, 7], 1), (done.clone(), vec![none]));
    assert_eq!(asked(&it), ["start 1 0x4000 0x7"]);
    let (_, time) = rtas(&it, 0x400, 0x2001, &[], 8);
    assert_eq!((time[0], time[2] <= 12, time[7] < 1_000_000_000), (0, true, true));
    assert!(time[1] >= 2024, "{time:?}");
    assert_eq!(
        rtas(&it, 0x500, 0x2008, &[44, 0, 0], 1),
        (done.clone(), vec![none]),
        "no system parameters"
    );
    assert_eq!(rtas(&it, 0x500, 0x2fff, &[], 1), (done, vec![none]));
    assert_eq!(rtas(&it, 0x600, 0x2003, &[0, 0], 1).0, Next::End(Ending::PowerOff));
    assert_eq!(rtas(&it, 0x600, 0x2004, &[], 1).0, Next::End(Ending::Reboot));
    assert_eq!(rtas(&it, 0x600, 0x2007, &[], 1).0, Next::Stop);
    it.memory().write_slice(b"no more\0 never", GuestAddress(0x700)).unwrap();
    assert_eq!(
        rtas(&it, 0x600, 0x201f, &[0x700], 1).0,
        Next::End(Ending::Terminated("no more".into()))
    );
    assert_eq!(
        rtas(&it, 0x600, 0x201f, &[u32::MAX], 1).0,
        Next::End(Ending::Terminated(String::new()))
    );
}

#[test]
fn rtas_blocks_that_cannot_be() {
    let it = platform(Mmu::Radix);
    let end = MEMORY as u64;
    for at in [end - 8, end, u64::MAX, u64::MAX - 11] {
        assert_eq!(call(&it, 0xf000, &[at]).0, Next::Resume(Status::PARAMETER), "{at:#x}");
    }
    // Room for the header and no more; and more arguments than any service has.
    for (at, nargs, nret) in
        [(end - 12, 1, 0), (end - 12, 0, 1), (0, 17, 0), (0, 0, 17), (0, u32::MAX, u32::MAX)]
    {
        for (word, at) in [0x2000, nargs, nret].into_iter().zip((at..).step_by(4)) {
            it.memory().write_obj(word.to_be_bytes(), GuestAddress(at)).unwrap();
        }
        assert_eq!(
            call(&it, 0xf000, &[at]).0,
            Next::Resume(Status::PARAMETER),
            "{at:#x} {nargs} {nret}"
        );
    }
}

#[test]
fn any_arguments_are_answered() {
    let mut random = fastrand::Rng::with_seed(9);
    let calls = [0x54, 0x58, 0x64, 0x68, 0x6c, 0x70, 0x74, 0x31c, 0x37c, 0xf000, 0xf000, 0xf000];
    for mmu in [Mmu::Radix, HASH] {
        let it = platform(mmu);
        for _ in 0..50_000 {
            let at = random.u64(..MEMORY as u64);
            let word = if random.bool() { random.u32(0x1fff..0x2022) } else { random.u32(..20) };
            let _ = it.memory().write_obj(word.to_be_bytes(), GuestAddress(at & !3));
            let nr = if random.u8(..8) == 0 {
                random.u64(..)
            } else {
                calls[random.usize(..calls.len())]
            };
            let argument = |random: &mut fastrand::Rng| match random.u8(..4) {
                0 => random.u64(..),
                1 => random.u64(..MEMORY as u64) & !3,
                2 => random.u64(..32),
                _ => u64::MAX - random.u64(..32),
            };
            let mut call = Hypercall { nr, args: [0; 9] };
            call.args = call.args.map(|_| argument(&mut random));
            // A CPU that there is not gets answers too.
            it.hypercall(random.u32(..3), &mut call);
        }
    }
}

/// A program for `machine` with 16 bytes of its own and `bytes` in memory, to be loaded to
/// `address`.
fn elf(machine: u16, address: u64, bytes: u64) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    file[16..18].copy_from_slice(&2_u16.to_le_bytes());
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    // e_phoff, e_ehsize, e_phentsize, e_phnum; then one PT_LOAD of 16 bytes of the file.
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    for (at, word) in [(52, 64_u16), (54, 56), (56, 1)] {
        file[at..at + 2].copy_from_slice(&word.to_le_bytes());
    }
    file[64..68].copy_from_slice(&1_u32.to_le_bytes());
    for (at, word) in [(72, 0x100), (88, address), (96, 16), (104, bytes)] {
        file[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
    }
    file[0x100..0x110].copy_from_slice(b"a kernel of ours");
    file
}

const PPC64: u16 = 21;

/// The tree says what the host takes: page sizes, and which memory is reached in real mode.
#[test]
fn hashed_guests_on_hosts_of_both_page_sizes() {
    const MIB: u64 = 1 << 20;
    let kernel = elf(PPC64, 0, 16);
    let (k4, k64) = (PageSize::K4, PageSize::K64);
    for (mib, order, largest, real_mode) in [
        (128_usize, 18, k64, Ok(128 * MIB)),
        (256, 18, k64, Ok(128 * MIB)),
        (256, 22, k64, Ok(256 * MIB)),
        (128, 22, k4, Ok(128 * MIB)),
        (256, 22, k4, Ok(128 * MIB)),
        (256, 23, k4, Ok(256 * MIB)),
        (256, 21, k4, Err(64 * MIB)),
        (128, 18, k4, Err(8 * MIB)),
    ] {
        let row = format!("{mib} MiB, order {order}, {largest:?}");
        let bytes = mib << 20;
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        let order = HptOrder::new(order).unwrap();
        let machine = Machine { cpus: 1, mmu: Mmu::Hash { order, largest } };
        let booted = boot(&memory, machine, &kernel, b"", "quiet");
        let entry = match (booted, real_mode) {
            (Ok(entry), Ok(_)) => entry,
            (Err(BootError::RealMode(reached)), Err(wanted)) if reached == wanted => continue,
            (booted, _) => panic!("{row}: {booted:?}"),
        };
        let mut tree = vec![0; 0x4000];
        memory.read_slice(&mut tree, GuestAddress(entry.r3)).unwrap();
        let has = |bytes: &[u8]| tree.windows(bytes.len()).any(|it| it == bytes);
        let range = |at: u64, bytes: u64| [at.to_be_bytes(), bytes.to_be_bytes()].concat();
        let first = real_mode.unwrap();
        assert!(has(&range(0, first)), "{row}");
        let rest = bytes as u64 - first;
        assert_eq!(has(&range(first, rest)), rest > 0, "{row}");
        let of_64k: Vec<u8> = [16_u32, 0x110, 1, 16, 1].map(u32::to_be_bytes).concat();
        assert_eq!(has(&of_64k), largest == k64, "{row}");
    }
}

#[test]
fn kernels_that_cannot_be_booted() {
    let memory: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 128 << 20)]).unwrap();
    let machine = Machine { cpus: 1, mmu: Mmu::Radix };
    let try_to = |kernel: &[u8], initrd: &[u8]| boot(&memory, machine, kernel, initrd, "quiet");
    assert!(matches!(try_to(b"", b""), Err(BootError::Elf(_))));
    assert!(matches!(try_to(&elf(PPC64, 0, 16)[..70], b""), Err(BootError::Elf(_))));
    assert!(matches!(try_to(&elf(62, 0, 16), b""), Err(BootError::NotOurs)));
    assert!(matches!(try_to(&elf(PPC64, 0x1_0000, 16), b""), Err(BootError::NotAtZero)));
    assert!(matches!(try_to(&elf(PPC64, 0, u64::MAX), b""), Err(BootError::Room { .. })));
    let kernel = elf(PPC64, 0, 16);
    assert!(matches!(try_to(&kernel, &vec![0; 125 << 20]), Err(BootError::Room { .. })));
    let long = "x".repeat(2 << 20);
    assert!(matches!(boot(&memory, machine, &kernel, b"", &long), Err(BootError::Tree(_))));

    let entry = try_to(&kernel, b"an initrd").unwrap();
    let read = |at| memory.read_obj::<[u8; 8]>(GuestAddress(at)).unwrap();
    assert_eq!(&read(0), b"a kernel");
    assert_eq!(&read(entry.layout.initrd), b"an initr");
    assert_eq!(read(entry.r3)[..4], 0xd00d_feed_u32.to_be_bytes(), "a flattened device tree");
    assert_eq!(read(entry.layout.rtas)[..4], 0x7c64_1b78_u32.to_be_bytes(), "mr r4,r3");
}
