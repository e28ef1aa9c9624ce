//! What a handler at EL2 reads: every class and status, and the faults of our own walks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::memory::DirectMap;
use pgtable::second_stage::{HostPage, MemorySlot, Stage2Tree};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Gpa, Gva, Hpa, Privilege, Prot};
use pgtable_aarch64::{Abort, FaultKind, NotStage2, Stage1Controls, hpfar};
use pgtable_conformance::tlb::Tlb;
use support::{GRANULES, S1, S2, stage1, stage2};

const FAR: u64 = 0xffff_0000_0765_4321;
const HPFAR: u64 = 0x0980_0012_3450;

/// DFSC and IFSC of DDI 0487, "ESR_EL2": what stage 2's tables cause, and the names of the rest.
fn meaning(status: u8) -> Result<FaultKind, &'static str> {
    match status {
        0x00..=0x03 | 0x29 => Ok(FaultKind::AddressSize),
        0x04..=0x07 | 0x2b => Ok(FaultKind::Translation),
        0x08..=0x0b => Ok(FaultKind::AccessFlag),
        0x0c..=0x0f => Ok(FaultKind::Permission),
        0x10 => Err("external abort"),
        0x11 => Err("tag check fault"),
        0x12..=0x17 => Err("external abort on a table walk"),
        0x18 => Err("parity or ECC error"),
        0x1b..=0x1f => Err("parity or ECC error on a table walk"),
        0x21 => Err("alignment fault"),
        0x22..=0x27 => Err("granule protection fault on a table walk"),
        0x28 => Err("granule protection fault"),
        0x2a | 0x2c => Err("fault at level -2 of 128-bit descriptors"),
        0x30 => Err("TLB conflict abort"),
        0x31 => Err("unsupported atomic hardware update"),
        0x34 => Err("IMPLEMENTATION DEFINED fault (lockdown)"),
        0x35 => Err("unsupported exclusive or atomic access"),
        _ => Err("reserved"),
    }
}

#[test]
fn every_class_and_status() {
    let mut seen = 0;
    for n in 0..1u64 << 15 {
        let (class, status, flags) = (n >> 6 & 63, n & 63, n >> 12);
        let (write, s1ptw, cm) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        let esr = class << 26 | 1 << 25 | (flags & 1) << 6 | (flags >> 1 & 1) << 7;
        let esr = esr | (flags >> 2) << 8 | status;
        let found = Abort::from_registers(esr, FAR, HPFAR);
        let fetch = match class {
            0x20 => true,
            0x24 => false,
            _ => {
                assert_eq!(found, Err(NotStage2::Class { class: class as u8 }), "{esr:#x}");
                continue;
            }
        };
        let kind = match meaning(status as u8) {
            Err(name) => {
                let error = found.unwrap_err();
                assert_eq!(error, NotStage2::Status { status: status as u8 });
                assert!(error.to_string().ends_with(&format!(": {name}")), "{error}");
                continue;
            }
            Ok(kind) => kind,
        };
        let abort = found.unwrap();
        assert_eq!(abort.fault().kind(), kind, "{abort}");
        assert_eq!((abort.gva(), abort.esr().into_bits()), (Gva::new(FAR), esr));
        assert_eq!(abort.is_stage1_walk(), s1ptw);
        let denied = kind == FaultKind::Permission;
        let ipa = match (s1ptw, denied) {
            (true, _) => Some(0x9_8000_1234_5000),
            (false, true) => None,
            (false, false) => Some(0x9_8000_1234_5321),
        };
        assert_eq!(abort.ipa(), ipa.map(Gpa::new), "{abort}");
        let want = match (fetch, s1ptw, cm, write) {
            (_, true, _, _) | (false, false, true, _) if denied => AccessKind::Write,
            (_, true, _, _) | (false, false, true, _) => AccessKind::Read,
            (true, false, _, _) => AccessKind::Fetch,
            (false, false, false, true) => AccessKind::Write,
            (false, false, false, false) => AccessKind::Read,
        };
        let want = Access { kind: want, privilege: Privilege::Supervisor };
        assert_eq!(abort.access(), want, "{abort}");
        seen += 1;
    }
    assert_eq!(seen, 2 * 18 * 8);
    // NS, and what stands above FIPA, are no address bits.
    let abort = Abort::from_registers(0x9200_0006, FAR, HPFAR | 0x8fff << 48 | 0xf);
    assert_eq!(abort.unwrap().ipa(), Some(Gpa::new(0x9_8000_1234_5321)));
}

#[test]
fn the_address_by_par() {
    let abort = Abort::from_registers(0x9200_004f, FAR, 0).unwrap();
    for (par, want) in [
        (0xff00_0009_8765_4b80, Some(0x9_8765_4321)),
        (0xff0f_ffff_ffff_fb80, Some(0xf_ffff_ffff_f321)),
        (0x80b, None),
    ] {
        assert_eq!(abort.ipa_by_par(par), want.map(Gpa::new), "{par:#x}");
    }
    let text = "ESR 0x9200004f: write, permission fault, level 3, \
                at gva 0xffff000007654321, HPFAR unknown";
    assert_eq!(abort.to_string(), text);
}

/// A handler that knows nothing but the registers faults in what a guest needs, tables first, until
/// the access goes through: each granule, each access, with and without the guest's own tables.
#[test]
fn faults_are_over_once_they_are_handled() {
    let mut handled = 0;
    for granule in GRANULES {
        let words: Vec<_> = (0..1 << 18).map(|_| AtomicU64::new(0)).collect();
        let host = DirectMap::new(&words, Hpa::new(0));
        // The guest's memory is the upper half of the host's.
        const GUEST: u64 = 1 << 20;
        let guest = |gpa: u64| ((GUEST + gpa) / 8) as usize;
        let shift = granule.shift();
        let frames = Region::new(host, Hpa::new(0), 16, 16).unwrap();
        let frames = Frames::new(frames).unwrap();
        let tables = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let (format, tlb) = (stage2(S2.with_input(granule, 40)), Tlb::default());
        let mut stage = Stage2Tree::new(format, host, &tables, 3).unwrap();
        // A stage 1 of two levels: a table at 2^17, its page at 0x8_0000.
        let first =
            stage1(Stage1Controls { granule, input_bits: shift + 2 * granule.stride(), ..S1 });
        let (root, below, page) = (1 << 16, 1 << 17, 0x8_0000);
        words[guest(root)].store(below | 3, Ordering::Relaxed);
        let leaf = page | 0x443;
        words[guest(below) + 1].store(leaf, Ordering::Relaxed);
        let hva = 1 << 40;
        let slot =
            MemorySlot { gpa: Gpa::new(0), bytes: 1 << 20, hva, read_only: false, logged: false };
        let va = (1 << shift) + 0x234;
        for access in [Access::READ, Access::WRITE.by_user(), Access::FETCH.by_user()] {
            let mut taken = Vec::new();
            loop {
                let walker = Walker::new(*stage.format(), host, stage.root());
                let fault = match TwoStage::new(first, Gpa::new(root), walker)
                    .translate(Gva::new(va), access)
                {
                    Ok(found) => {
                        assert_eq!(found.output(), Hpa::new(GUEST + page + 0x234));
                        break;
                    }
                    Err(TwoStageFault::Stage2 { fault, .. }) => fault,
                    Err(TwoStageFault::Stage1(fault)) => panic!("{fault}"),
                };
                let (esr, hpfar) = (fault.arch.into_bits(), hpfar(fault.address));
                let abort = Abort::from_registers(esr, va, hpfar).unwrap();
                // By AT S1E1R: the guest's tables say the page.
                let ipa = abort.ipa().or_else(|| abort.ipa_by_par(page)).unwrap();
                let table = abort.is_stage1_walk();
                let low = if table { 0xfff } else { 0 };
                assert_eq!(ipa.get(), fault.address.get() & !low, "{abort}");
                if !table {
                    assert_eq!(abort.access().kind, access.kind, "{abort}");
                }
                taken.push((table, abort.fault().kind()));
                // At first the host gives pages for reading.
                let kind = abort.access().kind;
                let prot = if kind == AccessKind::Write { Prot::RWX } else { Prot::RX };
                let frame = Hpa::new(GUEST + (ipa.get() & !0xffff));
                let page = HostPage { frame, shift: 16, attributes: prot.into() };
                let (ticket, mut gather) = (stage.ticket(), stage.gather(&tlb));
                stage.fault_in(ticket, ipa, kind, &slot, page, &mut gather, |_| ()).unwrap();
                stage.finish(&mut gather).unwrap();
                handled += 1;
                assert!(taken.len() < 8, "{taken:?}");
            }
            match access.kind {
                AccessKind::Read => {
                    let missing = FaultKind::Translation;
                    assert_eq!(taken, [(true, missing), (true, missing), (false, missing)]);
                }
                AccessKind::Write => assert_eq!(taken, [(false, FaultKind::Permission)]),
                AccessKind::Fetch => assert_eq!(taken, []),
            }
        }
        stage.destroy(&tlb).map_err(|(_, error)| error).unwrap();
    }
    assert_eq!(handled, 3 * 4);
}

/// A fault's text has the manual's level, once; of a guest's table also that table's. An error's
/// text has no level, which the manual counts from the other end, but what the entry covers.
#[test]
fn levels_in_texts() {
    let words: Vec<_> = (0..0x4000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let walker = Walker::new(stage1(S1), memory, Gpa::new(0));
    words[0].store(0x1003, Ordering::Relaxed);
    let fault = walker.translate(Gva::new(0x1234), Access::READ).unwrap_err();
    let text = "supervisor read at gva 0x1234 is not mapped in stage 1, entry at gpa 0x1000: \
                ESR 0x96000005: read, translation fault, level 1";
    assert_eq!(fault.to_string(), text);
    words[0].store(0x10_0000_1003, Ordering::Relaxed);
    let narrow = stage1(Stage1Controls { output_bits: 36, ..S1 });
    let error = Walker::new(narrow, memory, Gpa::new(0)).query(Gva::new(0x1234)).unwrap_err();
    let text = "malformed entry 0x0000001000001003 of 2^39 bytes (table memory 0x0)";
    assert_eq!(error.to_string(), text);
    let host = DirectMap::new(&words, Hpa::new(0));
    words[0].store(0x47d, Ordering::Relaxed);
    let second = Walker::new(stage2(S2), host, Hpa::new(0));
    // Level 0's table stands where stage 2 has a block, and says that level 1's does not.
    words[0x3000 / 8].store(0x4000_0003, Ordering::Relaxed);
    let both = TwoStage::new(stage1(S1), Gpa::new(0x3000), second);
    let fault = both.translate(Gva::new(0x1234), Access::READ).unwrap_err();
    let text = "supervisor read at gva 0x1234, reading the guest's table entry of level 1: \
                supervisor read at gpa 0x40000000 is not mapped in stage 2, entry at hpa 0x8: \
                ESR 0x92000085: read, translation fault, level 1, on a stage 1 table walk";
    assert_eq!(fault.to_string(), text);
}
