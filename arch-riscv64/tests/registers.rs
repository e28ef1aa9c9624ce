//! What registers say: each control bit, each mode, pointer masking, both stages, boot tables.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::bytes::{Debugger, Recording, Translate};
use pgtable::memory::DirectMap;
use pgtable::{
    Access, AccessKind, Attributes, Error, Gpa, Gva, Hpa, Memory as Kind, Privilege, Prot,
};
use pgtable_riscv64::{
    BootError, BootMapping, CONTROL_BITS, ControlRegister, Controls, Effect, Exception, Extensions,
    GuestControls, GuestPaging, GvaError, Mode, PageAttributes, Paging, PointerMask, Registers, Sv,
    SvX4, Trap, Unsupported, boot_tables, gva_to_gpa,
};
use support::{Dice, Hart, Memory, Outcome, Stage};

/// A hart of everything, in Sv39 and Sv39x4, with no control on.
const PLAIN: Registers = Registers {
    satp: 8 << 60 | 7,
    vsatp: 8 << 60 | 9,
    hgatp: 8 << 60 | 4,
    ..Registers {
        satp: 0,
        sstatus: 0,
        menvcfg: 0,
        senvcfg: 0,
        vsatp: 0,
        vsstatus: 0,
        hgatp: 0,
        hstatus: 0,
        henvcfg: 0,
    }
};

/// The registers with these bits set besides in one of them, as the host and as a guest have it.
fn with(register: ControlRegister, bits: u64) -> (Option<Registers>, Registers) {
    let (mut host, mut guest) = (PLAIN, PLAIN);
    let of_host = match register {
        ControlRegister::Satp => {
            host.satp |= bits;
            guest.vsatp |= bits;
            true
        }
        ControlRegister::Sstatus => {
            host.sstatus |= bits;
            guest.vsstatus |= bits;
            true
        }
        ControlRegister::Menvcfg => {
            host.menvcfg |= bits;
            guest.menvcfg |= bits;
            true
        }
        ControlRegister::Senvcfg => {
            host.senvcfg |= bits;
            guest.senvcfg |= bits;
            true
        }
        ControlRegister::Hgatp => {
            guest.hgatp |= bits;
            false
        }
        ControlRegister::Hstatus => {
            guest.hstatus |= bits;
            false
        }
        ControlRegister::Henvcfg => {
            guest.henvcfg |= bits;
            false
        }
    };
    (of_host.then_some(host), guest)
}

const REGISTERS: [ControlRegister; 7] = [
    ControlRegister::Satp,
    ControlRegister::Hgatp,
    ControlRegister::Sstatus,
    ControlRegister::Hstatus,
    ControlRegister::Menvcfg,
    ControlRegister::Henvcfg,
    ControlRegister::Senvcfg,
];

/// Every bit of every register alone: in one row at most; refused by its name, or without effect,
/// or with one.
#[test]
fn every_control_bit() {
    let hart = Extensions::new();
    for register in REGISTERS {
        for bit in 0..64_u8 {
            let rows = CONTROL_BITS.iter();
            let rows = rows.filter(|row| row.register == register && row.mask() >> bit & 1 != 0);
            let rows: Vec<_> = rows.collect();
            assert!(rows.len() <= 1, "{register} bit {bit}: {rows:?}");
            let (host, guest) = with(register, 1 << bit);
            let host = host.map(|host| Paging::of(&host, hart).map(|it| format!("{it:?}")));
            let guest = GuestPaging::of(&guest, hart).map(|it| format!("{it:?}"));
            let plain = [
                Paging::of(&PLAIN, hart).map(|it| format!("{it:?}")),
                GuestPaging::of(&PLAIN, hart).map(|it| format!("{it:?}")),
            ];
            let case = format!("{register} bit {bit}, {rows:?}: {host:?}, {guest:?}");
            let refused = |name: &str| {
                let text = format!("{register} bit {bit} ({name}) is set, which is not supported");
                move |found: &Result<String, Unsupported>| {
                    found.as_ref().is_err_and(|error| error.to_string() == text)
                }
            };
            match rows.first().map(|row| (row.effect, row.name)) {
                None => {
                    let reserved = refused("reserved");
                    assert!(host.as_ref().is_none_or(&reserved) && reserved(&guest), "{case}");
                }
                // Shadow stacks of the host do not change a guest's entries.
                Some((Effect::Refused, "SSE")) if register == ControlRegister::Menvcfg => {
                    assert!(host.as_ref().is_some_and(refused("SSE")), "{case}");
                    assert_eq!(guest, plain[1], "{case}");
                }
                Some((Effect::Refused, name)) => {
                    let refused = refused(name);
                    assert!(host.as_ref().is_none_or(&refused) && refused(&guest), "{case}");
                }
                Some((Effect::None, _)) => {
                    assert!(host.is_none_or(|host| host == plain[0]), "{case}");
                    assert_eq!(guest, plain[1], "{case}");
                }
                // Modes and masks are fields; henvcfg's are tested below.
                Some((Effect::Modelled, "MODE" | "PMM")) => {}
                Some((Effect::Modelled, _)) if register == ControlRegister::Henvcfg => {}
                // Already set, in PLAIN.
                Some((Effect::Modelled, "PPN")) if bit < 4 => {}
                Some((Effect::Modelled, _)) => {
                    assert!(host.is_none_or(|host| host != plain[0]), "{case}");
                    assert_ne!(guest, plain[1], "{case}");
                }
            }
        }
    }
}

/// A register that is Bare has nothing else: how it translates otherwise is UNSPECIFIED.
#[test]
fn bare_is_zero() {
    let hart = Extensions::new();
    for bit in [0, 2, 43, 44, 57, 59] {
        let word = 1 << bit;
        let first = Err(Unsupported::Bare(ControlRegister::Satp));
        let host = Registers { satp: word, ..Registers::default() };
        assert_eq!(Paging::of(&host, hart), first, "bit {bit}");
        let guest = Registers { vsatp: word, ..Registers::default() };
        assert_eq!(Paging::of_guest(&guest, hart), first, "bit {bit}");
        assert_eq!(GuestPaging::of(&guest, hart).map(|_| ()), first.map(|_| ()), "bit {bit}");
        let second = Registers { hgatp: word, ..Registers::default() };
        let refused = match bit {
            // Reserved, whatever MODE says.
            0 | 59 => matches!(GuestPaging::of(&second, hart), Err(Unsupported::Bit(_))),
            _ => GuestPaging::of(&second, hart) == Err(Unsupported::Bare(ControlRegister::Hgatp)),
        };
        assert!(refused, "bit {bit}");
    }
    let error = Unsupported::Bare(ControlRegister::Satp).to_string();
    assert_eq!(error, "satp is Bare with other fields set: how it translates is UNSPECIFIED");
}

#[test]
fn modes() {
    for code in 0..16 {
        let field = |mode_and: u64| if code == 0 { 0 } else { code << 60 | mode_and };
        let registers =
            Registers { satp: field(5), vsatp: field(5), hgatp: field(8), ..Registers::default() };
        let host = Paging::of(&registers, Extensions::new());
        let guest = GuestPaging::of(&registers, Extensions::new());
        let mode = match code {
            0 => None,
            8 => Some(Mode::Sv39),
            9 => Some(Mode::Sv48),
            10 => Some(Mode::Sv57),
            _ => {
                let code = code as u8;
                let error = Unsupported::Mode(ControlRegister::Satp, code);
                assert_eq!((host, guest), (Err(error), Err(error)));
                let hgatp = Registers { vsatp: 0, ..registers };
                let error = Unsupported::Mode(ControlRegister::Hgatp, code);
                assert_eq!(GuestPaging::of(&hgatp, Extensions::new()), Err(error));
                continue;
            }
        };
        let first = mode.map(|mode| (Sv::new(mode, Controls::new()), Gpa::new(0x5000)));
        let second = mode.map(|mode| (SvX4::new(mode, GuestControls::new()), Hpa::new(0x8000)));
        assert_eq!(host.unwrap().tables(), first);
        assert_eq!(guest.unwrap().first.tables(), first);
        assert_eq!(guest.unwrap().second, second);
        if let (Some((first, gpa)), Some((second, hpa))) = (first, second) {
            assert_eq!(first.satp(gpa, 0x1234).into_bits(), registers.satp | 0x1234 << 44);
            assert_eq!(second.hgatp(hpa, 0xffff).into_bits(), registers.hgatp | 0x3fff << 44);
            // Bits that are no root's do not count.
            assert_eq!(first.satp(Gpa::new(u64::MAX), 0).ppn(), (1 << 44) - 1);
            assert_eq!(second.hgatp(Hpa::new(u64::MAX), 0).ppn(), (1 << 44) - 4);
        }
    }
}

/// HLVX: loads need X in both stages, and no pointer is masked.
#[test]
fn hlvx() {
    let registers = Registers {
        vsatp: 8 << 60 | 5,
        hgatp: 9 << 60 | 8,
        henvcfg: 3 << 32,
        ..Registers::default()
    };
    let plain = GuestPaging::of(&registers, Extensions::new()).unwrap();
    let hlvx = plain.for_hlvx();
    let (first, root) = plain.first.tables().unwrap();
    assert_eq!(hlvx.first.tables(), Some((first.for_hlvx(), root)));
    assert_eq!(hlvx.second, plain.second.map(|(second, root)| (second.for_hlvx(), root)));
    let tagged = Gva::new(0xabcd_0000_0000_1000);
    assert_eq!(plain.first.masked(tagged, Access::READ), Gva::new(0x1000));
    assert_eq!(hlvx.first.masked(tagged, Access::READ), tagged);
    let bare = GuestPaging::of(&Registers::default(), Extensions::new()).unwrap();
    assert_eq!(bare.for_hlvx(), bare);
}

const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;
const ADUE: u64 = 1 << 61;
const PBMTE: u64 = 1 << 62;

/// Which register's bit controls which stage.
#[test]
fn whose_controls() {
    let none = Extensions::new();
    let (adue, pbmte) = (Extensions { adue: true, ..none }, Extensions { pbmte: true, ..none });
    // sstatus, vsstatus, menvcfg, henvcfg; SUM, MXR and extensions of the first stage of the host,
    // of the guest, and MXR and extensions of the guest stage.
    type First = (bool, bool, Extensions);
    type Row = (u64, u64, u64, u64, First, First, (bool, Extensions));
    let rows: &[Row] = &[
        (0, 0, 0, 0, (false, false, none), (false, false, none), (false, none)),
        (SUM, 0, 0, 0, (true, false, none), (false, false, none), (false, none)),
        (0, SUM, 0, 0, (false, false, none), (true, false, none), (false, none)),
        (MXR, 0, 0, 0, (false, true, none), (false, true, none), (true, none)),
        (0, MXR, 0, 0, (false, false, none), (false, true, none), (false, none)),
        (0, 0, ADUE, 0, (false, false, adue), (false, false, none), (false, adue)),
        (0, 0, ADUE, ADUE, (false, false, adue), (false, false, adue), (false, adue)),
        (0, 0, 0, ADUE, (false, false, none), (false, false, none), (false, none)),
        (0, 0, PBMTE, 0, (false, false, pbmte), (false, false, none), (false, pbmte)),
        (0, 0, PBMTE, PBMTE, (false, false, pbmte), (false, false, pbmte), (false, pbmte)),
        (0, 0, 0, PBMTE, (false, false, none), (false, false, none), (false, none)),
    ];
    for &(sstatus, vsstatus, menvcfg, henvcfg, host, own, guest) in rows {
        let registers = Registers { sstatus, vsstatus, menvcfg, henvcfg, ..PLAIN };
        for hart in [none, Extensions { rsw60t59b: true, ..none }, adue, pbmte] {
            let with_hart = |it: Extensions| Extensions {
                adue: it.adue || hart.adue,
                pbmte: it.pbmte || hart.pbmte,
                ..hart
            };
            let controls = |(sum, mxr, extensions): First| Controls {
                sum,
                mxr,
                extensions: with_hart(extensions),
            };
            let first = Paging::of(&registers, hart).unwrap().tables().unwrap();
            assert_eq!(first, (Sv::new(Mode::Sv39, controls(host)), Gpa::new(0x7000)));
            let both = GuestPaging::of(&registers, hart).unwrap();
            let first = both.first.tables().unwrap();
            assert_eq!(first, (Sv::new(Mode::Sv39, controls(own)), Gpa::new(0x9000)));
            let (mxr, extensions) = guest;
            let extensions = with_hart(extensions);
            let second = SvX4::new(Mode::Sv39, GuestControls { mxr, extensions });
            assert_eq!(both.second, Some((second, Hpa::new(0x4000))));
        }
    }
    // A hart that always updates.
    let always = Paging::of(&PLAIN, adue).unwrap().tables().unwrap().0;
    assert!(always.controls().extensions.adue);
}

#[test]
fn pointers_are_masked_by_the_mode_above() {
    let tagged = Gva::new(0xab00_0000_0000_1234);
    let (seven, sixteen) = (2 << 32, 3 << 32);
    let none = tagged.get();
    let plain = 0x1234;
    // menvcfg, henvcfg, senvcfg, sstatus, vsstatus; addresses of the host's supervisor and user, of
    // the guest's.
    type Row = ([u64; 5], [u64; 4]);
    let rows: &[Row] = &[
        ([0; 5], [none; 4]),
        ([seven, 0, 0, 0, 0], [PointerMask::Seven.apply(none, false), none, none, none]),
        ([sixteen, 0, 0, 0, 0], [plain, none, none, none]),
        ([0, sixteen, 0, 0, 0], [none, none, plain, none]),
        ([0, 0, sixteen, 0, 0], [none, plain, none, plain]),
        ([sixteen, sixteen, sixteen, 0, 0], [plain; 4]),
        ([sixteen, sixteen, sixteen, MXR, 0], [none; 4]),
        ([sixteen, sixteen, sixteen, 0, MXR], [plain, plain, none, none]),
    ];
    for &([menvcfg, henvcfg, senvcfg, sstatus, vsstatus], want) in rows {
        let registers = Registers { menvcfg, henvcfg, senvcfg, sstatus, vsstatus, ..PLAIN };
        let host = Paging::of(&registers, Extensions::new()).unwrap();
        let guest = GuestPaging::of(&registers, Extensions::new()).unwrap().first;
        let found = |paging: &Paging, access| paging.masked(tagged, access).get();
        for access in [Access::READ, Access::WRITE] {
            let found = [&host, &guest].map(|it| [found(it, access), found(it, access.by_user())]);
            assert_eq!(found.concat(), want, "{registers:x?}");
        }
        for access in [Access::FETCH, Access::FETCH.by_user()] {
            assert_eq!([&host, &guest].map(|it| found(it, access)), [none; 2], "{registers:x?}");
        }
    }
    for (register, registers) in [
        (ControlRegister::Menvcfg, Registers { menvcfg: 1 << 32, ..PLAIN }),
        (ControlRegister::Senvcfg, Registers { senvcfg: 1 << 32, ..PLAIN }),
    ] {
        let error = Unsupported::PointerMask(register);
        assert_eq!(Paging::of(&registers, Extensions::new()), Err(error));
    }
    let henvcfg = Registers { henvcfg: 1 << 32, ..PLAIN };
    let error = Unsupported::PointerMask(ControlRegister::Henvcfg);
    assert_eq!(GuestPaging::of(&henvcfg, Extensions::new()), Err(error));
    // Bare: an address of memory, without sign.
    let bare = Registers { satp: 0, menvcfg: sixteen, ..PLAIN };
    let bare = Paging::of(&bare, Extensions::new()).unwrap();
    let high = Gva::new(0xabcd_8000_0000_0000);
    assert_eq!(bare.masked(high, Access::READ), Gva::new(0x8000_0000_0000));
    let memory = DirectMap::new(&[], Gpa::new(0));
    let found = bare.translate(memory, high, Access::READ).unwrap();
    assert_eq!((found.output, found.attributes), (Gpa::new(0x8000_0000_0000), None));
}

/// Both stages, either of them Bare, against the model.
#[test]
fn every_combination_of_bare_stages() {
    let mut dice = Dice(39);
    let mut words = vec![0; 16 * 512];
    // A guest stage's root at 0x4000, its tables at 0x8000 and 0x9000: identity of some pages.
    words[0x4000 / 8] = 0x8000 >> 2 | 1;
    words[0x8000 / 8] = 0x9000 >> 2 | 1;
    for page in 0..16 {
        let rights = dice.of(&[0x1f, 0x1f, 0x1f, 0x19]);
        words[0x9000 / 8 + page] = (page as u64) << 10 | rights | 0xc0;
    }
    // A first stage's at 0xa000, 0xb000, 0xc000.
    words[0xa000 / 8] = 0xb000 >> 2 | 1;
    words[0xb000 / 8] = 0xc000 >> 2 | 1;
    for page in 0..32 {
        let rights = dice.of(&[0xf, 0x1f, 0x9, 0x19, 0x3]);
        words[0xc000 / 8 + page] = dice.below(20) << 10 | rights | dice.of(&[0xc0, 0xc0, 0]);
    }
    let memory: Memory = (0..).step_by(8).zip(words.iter().copied()).collect();
    let words: Vec<AtomicU64> = words.into_iter().map(AtomicU64::new).collect();
    let (mut good, mut bad) = ([0; 4], [0; 4]);
    for case in 0..40_000 {
        let (paged, guest_paged) = (case & 1 != 0, case & 2 != 0);
        let [sum, mxr, host_mxr] = [0; 3].map(|_| dice.one_in(2));
        let registers = Registers {
            vsatp: if paged { 8 << 60 | 0xa } else { 0 },
            hgatp: if guest_paged { 8 << 60 | 4 } else { 0 },
            vsstatus: if sum { SUM } else { 0 } | if mxr { MXR } else { 0 },
            sstatus: if host_mxr { MXR } else { 0 },
            ..Registers::default()
        };
        let controls = Controls { sum, mxr: mxr || host_mxr, extensions: Extensions::new() };
        let guest = GuestControls { mxr: host_mxr, extensions: Extensions::new() };
        let va = dice.below(33) << 12 | dice.below(512) << 3 | u64::from(dice.one_in(20)) << 41;
        let access = dice.access();
        let load = |address| memory.get(&address).copied();
        let first = paged.then(|| Stage::first(Mode::Sv39, 0xa000, controls));
        let second = guest_paged.then(|| Stage::guest(Mode::Sv39, 0x4000, guest));
        let mut hart = Hart::new(&load, first, second);
        let want = hart.access(va, access);
        let paging = GuestPaging::of(&registers, Extensions::new()).unwrap();
        let walker = paging.walker(DirectMap::new(&words, Hpa::new(0)));
        let found = walker.translate(Gva::new(va), access);
        let text = format!("{access} at {va:#x} by {registers:x?}");
        match (found, want) {
            (Ok(found), Outcome::Page(hpa, _)) => {
                good[case & 3] += 1;
                assert_eq!(found.output.get(), hpa, "{text}");
                let (first, second) = found.attributes;
                assert_eq!((first.is_some(), second.is_some()), (paged, guest_paged), "{text}");
            }
            (Err(Trap { exception, stval, htval, htinst }), want) => {
                bad[case & 3] += 1;
                let cause = exception.code().into();
                assert_eq!(Outcome::Trap { cause, stval, htval, htinst }, want, "{text}");
            }
            (found, want) => panic!("{text}: {found:?}, {want:?}"),
        }
    }
    assert!(
        good.iter().all(|&n| n > 1000) && bad[1..].iter().all(|&n| n > 1000),
        "{good:?} {bad:?}"
    );
    assert_eq!(bad[0], 0, "nothing is refused where nothing translates");
}

const GIB: u64 = 1 << 30;

#[test]
fn boot() {
    for (mode, tables) in [(Mode::Sv39, 3), (Mode::Sv48, 5), (Mode::Sv57, 7)] {
        let words: Vec<_> = (0..0x2_0000 / 8).map(|_| AtomicU64::new(u64::MAX)).collect();
        let memory = DirectMap::new(&words, Gpa::new(0));
        let format = Sv::new(mode, Controls::new());
        let kernel = Gva::new(0xffff_ffff_8000_0000);
        let mappings = [
            BootMapping::identity(4 * GIB, Prot::RWX.into()),
            BootMapping::new(kernel, Gpa::new(0x20_0000), 0x20_1000, Prot::RX.into()),
        ];
        let area = Gpa::new(0x9001)..Gpa::new(0x2_0000);
        let boot = boot_tables(format, &memory, area.clone(), mappings).unwrap();
        assert_eq!(boot.satp, format.satp(Gpa::new(0xa000), 0));
        assert_eq!(boot.end, Gpa::new(0xa000 + tables * 0x1000), "{mode:?}");
        let root = words[0xa000 / 8].load(Ordering::Relaxed);
        assert_eq!(root, if mode == Mode::Sv39 { 0xcf } else { 0x2c01 }, "{mode:?}");
        let registers = Registers { satp: boot.satp.into_bits(), ..Registers::default() };
        let go = |gva, access| gva_to_gpa(&registers, memory, Gva::new(gva), access).map(Gpa::get);
        assert_eq!(go(0x1234_5678, Access::WRITE), Ok(0x1234_5678));
        assert_eq!(go(kernel.get() + 0x20_0123, Access::FETCH), Ok(0x40_0123));
        let fault = |result: Result<u64, GvaError>| match result {
            Err(GvaError::Fault(fault)) => fault.arch,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(go(4 * GIB, Access::READ)), Exception::LoadPageFault);
        assert_eq!(fault(go(kernel.get(), Access::WRITE)), Exception::StorePageFault);
        assert_eq!(fault(go(0, Access::FETCH.by_user())), Exception::InstructionPageFault);
        assert_eq!(fault(go(1 << 62, Access::READ)), Exception::LoadPageFault);
        assert!(matches!(
            gva_to_gpa(&Registers { satp: 1 << 60, ..registers }, memory, kernel, Access::READ),
            Err(GvaError::Unsupported(Unsupported::Mode(ControlRegister::Satp, 1)))
        ));
        // A debugger writes where the hart may not, and records nothing.
        let walker = Paging::of(&registers, Extensions::new()).unwrap().walker(memory);
        let found = Debugger(walker).translate(kernel, Access::WRITE.by_user()).unwrap();
        assert_eq!((found.output, found.shift), (Gpa::new(0x20_0000), 21));
        assert_eq!(Recording(walker).translate(kernel, Access::READ).unwrap().output, found.output);

        let small = Gpa::new(0x9000)..Gpa::new(0xa000);
        let error = boot_tables(format, &memory, small, mappings).unwrap_err();
        assert!(matches!(error, BootError::Mapping(at) if matches!(at.error, Error::Alloc(_))));
        // Why a page was refused is told, also where new tables came back.
        let device = PageAttributes::from(Prot::RW).with_memory(Kind::Device);
        let (at, to) = (Gva::new(0x4000_0000), Gpa::new(0x4000_0000));
        let refused = [BootMapping::new(at, to, 0x1000, device)];
        let error = boot_tables(format, &memory, area.clone(), refused).unwrap_err();
        let BootError::Mapping(told) = error else { panic!("{error}") };
        assert!(matches!(told.error, Error::Unencodable { .. }), "{told}");
        let far = Gpa::new(1 << 56)..Gpa::new(1 << 57);
        let error = boot_tables(format, &memory, far, mappings).unwrap_err();
        assert!(matches!(error, BootError::Area(Error::Unencodable { .. })));
        let outside = Gpa::new(0x4_0000)..Gpa::new(0x5_0000);
        let error = boot_tables(format, &memory, outside, mappings).unwrap_err();
        assert!(matches!(error, BootError::Area(Error::Memory(_))));
    }
}

/// htval and stval together are the address; htinst tells tables' accesses.
#[test]
fn traps() {
    for (scause, stval, htval, htinst, gpa, table) in [
        (21, 0x1003, 0x400, 0, Some(0x1003), None),
        (21, 0x1003, 0x400, 0x3000, Some(0x1000), Some(AccessKind::Read)),
        (23, 0x1003, 0x402, 0x3020, Some(0x1008), Some(AccessKind::Write)),
        (20, 0x1002, 0x400, 0x2000, Some(0x1000), Some(AccessKind::Read)),
        (20, 0x1002, 0x400, 0x2020, Some(0x1000), Some(AccessKind::Write)),
        (21, 0x1003, 0x400, 0x3503, Some(0x1003), None),
        (21, 0x1003, 0, 0, None, None),
        (23, 3, 0, 0, None, None),
        (21, 0x1003, 0, 0x3000, None, Some(AccessKind::Read)),
        (13, 0x1003, 0x400, 0, None, None),
        (5, 0x1003, 0x400, 0, None, None),
    ] {
        let trap = Trap::from_registers(scause, stval, htval, htinst).unwrap();
        assert_eq!(trap.gpa(false), gpa.map(Gpa::new), "{trap}");
        // With Shtvala, 0 is an address too.
        let first = if table.is_some() { 0 } else { stval & 3 };
        let told = gpa.or(trap.exception.is_guest_page_fault().then_some(first));
        assert_eq!(trap.gpa(true), told.map(Gpa::new), "{trap}");
        assert_eq!(trap.table_access(), table, "{trap}");
        let own = Access { kind: trap.exception.kind(), privilege: Privilege::User };
        let implicit = |kind| Access { kind, privilege: Privilege::Supervisor };
        assert_eq!(trap.access(), table.map_or(own, implicit), "{trap}");
    }
    assert_eq!(Trap::from_registers(22, 0, 0, 0), None);
    assert_eq!(Trap::from_registers(1 << 63 | 5, 0, 0, 0), None);
}
