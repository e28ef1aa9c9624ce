//! RISC-V tables in arbitrary memory: a first stage, a guest stage, and one behind the other.

use std::sync::atomic::AtomicU64;

use arbitrary::{Arbitrary, Unstructured};
use pgtable::cache::{Generation, TranslationCache};
use pgtable::memory::DirectMap;
use pgtable::two_stage::TwoStage;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Hpa};
use pgtable_riscv64::{Controls, Extensions, GuestControls, Mode, Sv, SvX4, Trap};

use crate::case::{access, bit, image, neighbours, words};
use crate::memory::Counted;
use crate::oracle::riscv_model::{Hart, Outcome, Stage};
use crate::reading::Tree;

/// 128 KiB: eight places for the root of a guest stage.
const WORDS: usize = 1 << 14;

#[derive(Arbitrary)]
struct Header {
    flags: u16,
    access: u8,
    modes: u8,
    root: u8,
    guest_root: u8,
    gva: u64,
    bytes: u32,
}

/// Arbitrary memory as tables; one address and its neighbours.
///
/// # Oracles
/// The model of `pgtable-riscv64`'s tests, which goes by the manual step by step: addresses,
/// causes, stval, htval, htinst; all ways to read agree, and none reads more than it may.
pub fn sv_walk(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(header) = input.arbitrary::<Header>() else { return };
    let Header { flags, access: choice, modes, root, guest_root, gva, bytes } = header;
    let given = words(input);
    let access = access(choice);
    let image = image(&given, WORDS);
    let load = |address: u64| image.get((address / 8) as usize).copied();
    let memory: Vec<_> = image.iter().map(|&word| AtomicU64::new(word)).collect();

    let extensions = |n| Extensions {
        adue: bit(flags, n),
        pbmte: bit(flags, n + 1),
        rsw60t59b: bit(flags, n + 2),
        svnapot: bit(flags, 12),
    };
    let mxr = bit(flags, 2);
    let controls =
        Controls { sum: bit(flags, 3), mxr: mxr || bit(flags, 4), extensions: extensions(5) };
    let guest_controls = GuestControls { mxr, extensions: extensions(8) };
    let mode = |n: u8| Mode::ALL[usize::from(n) % 3];
    let (first, guest) =
        (Sv::new(mode(modes), controls), SvX4::new(mode(modes >> 4), guest_controls));
    let (root, guest_root) = (u64::from(root % 32) << 12, u64::from(guest_root % 8) << 14);
    let of_first = Stage::first(mode(modes), root, controls);
    let of_guest = Stage::guest(mode(modes >> 4), guest_root, guest_controls);

    // Mostly addresses of the space.
    let reach = |bits: u8| if bit(flags, 11) { 0 } else { 64 - u32::from(bits) };
    match flags & 3 {
        0 => {
            let unused = reach(12 + 9 * first.mode().levels());
            let inputs = neighbours(((gva << unused) as i64 >> unused) as u64, &given);
            let memory = DirectMap::new(&memory, Gpa::new(0));
            let walker = Walker::new(first, memory, Gpa::new(root));
            for &gva in &inputs {
                let want = Hart::new(&load, Some(of_first), None).access(gva, access);
                let seen = walker.translate(Gva::new(gva), access);
                let seen = seen.map(|it| (it.output.get(), it.shift));
                check(seen.map_err(|fault| Trap::from(&fault)), want, gva, access);
            }
            Tree { format: first, memory, root: Gpa::new(root) }.check(
                &inputs,
                access,
                bytes.into(),
            );
        }
        1 => {
            let unused = reach(14 + 9 * guest.mode().levels());
            let inputs = neighbours(gva << unused >> unused, &given);
            // The guest's own accesses, not implicit ones.
            let access = access.by_user();
            let memory = DirectMap::new(&memory, Hpa::new(0));
            let walker = Walker::new(guest, memory, Hpa::new(guest_root));
            for &gpa in &inputs {
                let want = Hart::new(&load, None, Some(of_guest)).access(gpa, access);
                let seen = walker.translate(Gpa::new(gpa), access);
                let seen = seen.map(|it| (it.output.get(), it.shift));
                check(seen.map_err(|fault| Trap::from(&fault)), want, gpa, access);
            }
            Tree { format: guest, memory, root: Hpa::new(guest_root) }.check(
                &inputs,
                access,
                bytes.into(),
            );
        }
        _ => {
            let unused = reach(12 + 9 * first.mode().levels());
            let inputs = neighbours(((gva << unused) as i64 >> unused) as u64, &given);
            let memory = Counted::of(DirectMap::new(&memory, Hpa::new(0)));
            let walker = || Walker::new(guest, &memory, Hpa::new(guest_root));
            let generation = Generation::new();
            let cache = TranslationCache::<SvX4, 8>::new(&generation);
            let both = TwoStage::new(first, Gpa::new(root), walker());
            let cached = TwoStage::new(first, Gpa::new(root), walker()).with_cache(&cache);
            let (l1, l2) = (usize::from(first.mode().levels()), usize::from(guest.mode().levels()));
            for &gva in &inputs {
                let want = Hart::new(&load, Some(of_first), Some(of_guest)).access(gva, access);
                memory.loads();
                let seen = both.translate(Gva::new(gva), access);
                assert!(memory.loads() <= l1 * (2 * l2 + 1) + 2 * l2 + 2 * l1 * l2, "{gva:#x}");
                for _ in 0..2 {
                    assert_eq!(cached.translate(Gva::new(gva), access), seen, "{gva:#x}, cached");
                }
                let seen = seen.map(|it| (it.output().get(), it.shift()));
                check(seen.map_err(|fault| Trap::from(&fault)), want, gva, access);
            }
        }
    }
}

fn check(seen: Result<(u64, u8), Trap>, want: Outcome, address: u64, access: Access) {
    let seen = match seen {
        Ok((output, shift)) => Outcome::Page(output, shift.into()),
        Err(Trap { exception, stval, htval, htinst }) => {
            Outcome::Trap { cause: exception.code().into(), stval, htval, htinst }
        }
    };
    assert_eq!(seen, want, "{access} at {address:#x}");
}
